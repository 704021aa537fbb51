"""The starter data: real molecules from the RDKit wheel, every label computed by a named tool. No download."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial

from tqdm import tqdm

from dataset_builders.schema import Record, split_of
from dataset_builders.source import Source
from dataset_builders.sources.starter import descriptions, quantum
from dataset_builders.sources.starter.catalogue import TEMPLATES
from dataset_builders.sources.starter.molecules import LABELS, LICENSE, Molecule, clean, read_entries, take_evenly
from dataset_builders.sources.starter.procedures import label_source, procedure
from dataset_builders.sources.starter.reactions import BLOCK, BLOCK_LICENSE, Reaction, run_template, substances
from omnimol_hf.tasks import EXTRA_TASKS, TASKS

VERSION = "1"
SUMMARY = (
    "Real molecules from the files that every RDKit wheel ships, with labels *computed* by named tools. It needs no "
    "download and exists to try the pipeline end to end; it is not a benchmark, and scores on it compare with nothing "
    "published."
)
SOURCE = Source(
    name="starter",
    title="RDKit wheel, with computed labels",
    home="https://www.rdkit.org",
    license=LICENSE,
    citation="RDKit: open-source cheminformatics. https://www.rdkit.org",
    files=(),
    tasks={
        "forward_prediction": "product of a named-reaction template; not measured",
        "retrosynthesis": "reactants of a named-reaction template; one route of several; not measured",
        "reagent_prediction": "reagents that the template declares (no solvents, no catalysts); not measured",
        "solvent_prediction": "solvents that the template declares; not measured",
        "catalyst_prediction": "catalysts that the template declares; no row for a reaction without one; not measured",
        "homo_lumo": "orbital energies of GFN2-xTB in Hartree; not comparable with DFT values such as QM9's",
        "scf_energy": "GFN2-xTB total energy (valence electrons only) in Hartree; not comparable with DFT values",
        "logp": "Crippen's atom contributions (RDKit), no unit",
        "tpsa": "Ertl's topological polar surface area (RDKit; N and O only), Å²",
        "complexity": "Bertz's index (RDKit BertzCT), no unit. PubChem's Cactvs complexity is a different quantity",
        "molecular_weight": "average molecular weight (RDKit), g/mol",
        "molecular_captioning": "sentences composed from structure facts (RDKit)",
        "description_qa": "question and answer composed from structure facts (RDKit)",
        "experiment_procedure": "action sequence composed from the template's conditions; nobody carried it out",
    },
    how_to_get="nothing to get: the molecules come with RDKit",
    notes=(
        "Reactions are **generated from templates, not measured**: each is a named textbook reaction, applied where "
        "its reacting group occurs exactly once in a real molecule (or a common building block) and no competing "
        "group is present; products are sanitised by RDKit and single. Reagents, solvents, catalysts and procedures "
        "are the template's usual ones, drawn from its alternatives. Nobody has run these reactions, and some would "
        "fail. "
        f"The {len(TEMPLATES)} templates, named in `subset`: {', '.join(template.name for template in TEMPLATES)}."
    ),
)
LEFT_OUT = {
    "yield_regression": "a yield can only be measured: no computed label would be honest",
    **dict.fromkeys(EXTRA_TASKS, "not made here: the starter data has the paper's own tasks only"),
}
Drops = Counter
"""(task or `"all tasks"`, source, reason) -> how many."""


def records(limit: int | None, executor: Executor, drops: Drops) -> Iterator[Record]:
    """All records, in an order that depends on neither the process count nor the machine.

    Of records that ask the same question the first stays. The kept ones are numbered from 1 in each task (`place`).
    """
    asked, numbers = set(), Counter()
    for record in _all_records(limit, executor, drops):
        question = _question(record)
        if question in asked:
            drops[record.task, record.source, "the same question was asked before"] += 1
            continue
        asked.add(question)
        numbers[record.task] += 1
        yield replace(record, place=str(numbers[record.task]))


def _question(record: Record) -> tuple[str, ...]:
    """What the record asks: the task, the instruction, the quantity of several, and all molecules that are shown."""
    task = TASKS[record.task]
    shown = task.record_input.format(components=(record.roles, record.molecules), **record.molecules)
    return record.task, record.instruction, shown, record.subset if task.properties else ""


def _all_records(limit: int | None, executor: Executor, drops: Drops) -> Iterator[Record]:
    energy_label = quantum.label_source()  # first: fails at once where tblite is missing
    entries = list(take_evenly(read_entries(), limit))
    cleaned = tqdm(executor.map(clean, entries, chunksize=100), "molecules", len(entries), unit="mol")
    molecules = list(_unique(zip(entries, cleaned, strict=True), drops))
    for molecule in molecules:
        yield from _property_records(molecule)
    small = [
        molecule for molecule in molecules if molecule.heavy_atoms <= quantum.MAX_HEAVY_ATOMS and molecule.closed_shell
    ]
    computed = executor.map(quantum.energies, [molecule.smiles for molecule in small], chunksize=20)
    for molecule, energies in zip(small, tqdm(computed, "GFN2-xTB", len(small), unit="mol"), strict=True):
        if isinstance(energies, str):
            drops["homo_lumo, scf_energy", molecule.source, energies] += 1
        else:
            yield from _quantum_records(molecule, energies, energy_label)
    pool = substances(molecules)
    for template in tqdm(TEMPLATES, "reactions"):  # seconds in all: sending the pool to processes would take longer
        reactions, rejected = run_template(template, pool)
        for reason, count in rejected.items():
            drops["reaction tasks", f"draws of {template.name}", reason] += count
        for reaction in reactions:
            yield from _reaction_records(reaction)


def _unique(cleaned: Iterator, drops: Drops) -> Iterator[Molecule]:
    seen = set()
    for entry, result in cleaned:
        if isinstance(result, Molecule) and result.smiles in seen:
            result = "duplicate of an earlier molecule"
        if isinstance(result, str):
            drops["all tasks", entry.source, result] += 1
        else:
            seen.add(result.smiles)
            yield result


def _of_molecule(molecule: Molecule) -> partial:
    return partial(
        Record,
        place="",
        molecules={"molecule": molecule.smiles},
        split=split_of(molecule.key),
        source=molecule.source,
        license=LICENSE,
        publisher_id=molecule.source_id,
    )


def _rounded(value: float, digits: int) -> float:
    return round(value, digits) + 0.0  # + 0.0: no "-0.00"


def _property_records(molecule: Molecule) -> Iterator[Record]:
    record = _of_molecule(molecule)
    for task, (_, label) in LABELS.items():
        yield record(task=task, value=_rounded(molecule.labels[task], 2), label_source=label)
    facts, label = molecule.facts, descriptions.LABEL_SOURCE
    yield record(task="molecular_captioning", text=descriptions.caption(facts), label_source=label)
    kind, question, answer = descriptions.question(facts, molecule.smiles)
    yield record(task="description_qa", instruction=question, text=answer, subset=kind, label_source=label)


def _quantum_records(molecule: Molecule, energies: quantum.Energies, label: str) -> Iterator[Record]:
    record = partial(_of_molecule(molecule), label_source=label)
    values = {"HOMO": energies.homo, "LUMO": energies.lumo, "gap": energies.lumo - energies.homo}
    for subset, value in values.items():
        yield record(task="homo_lumo", value=_rounded(value, 4), subset=subset)
    yield record(task="scf_energy", value=_rounded(energies.total, 4))


def _reaction_records(reaction: Reaction) -> Iterator[Record]:
    sources = sorted({substance.source for substance in reaction.reactants})
    record = partial(
        Record,
        place="",
        split=split_of(reaction.key),
        source=" + ".join(sources),
        license=" AND ".join(sorted({BLOCK_LICENSE if source == BLOCK else LICENSE for source in sources})),
        label_source=label_source(reaction),
        publisher_id="+".join(substance.source_id for substance in reaction.reactants),
        subset=reaction.template.name,
    )
    reactants = ".".join(substance.smiles for substance in reaction.reactants)
    agents = {kind: ".".join(reaction.agents(kind)) for kind in ("reagents", "solvents", "catalysts")}
    flask = ".".join(filter(None, (reactants, agents["reagents"])))
    yield record(task="forward_prediction", molecules={"reactants": flask, "product": reaction.product})
    sides = {"reactants": reactants, "product": reaction.product}
    yield record(task="retrosynthesis", molecules=sides)
    for kind, answer in agents.items():
        if answer:
            yield record(task=f"{kind[:-1]}_prediction", molecules=sides | {kind: answer})
    components, roles, actions = procedure(reaction)
    yield record(task="experiment_procedure", molecules=components, roles=roles, text=actions)
