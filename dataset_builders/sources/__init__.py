"""One module or package a publisher: what is known of the source (`SOURCE`), and how its files are read (`read`).

`starter` is not among `SOURCES`: it is generated, there are no files to read.
"""

from types import ModuleType

from dataset_builders.sources import (
    chebi_20,
    drugchat,
    mol_instructions,
    molecule_qa,
    omni_mol,
    openexp,
    ord,
    orgsyn_procedures,
    presto,
    pubchem,
    pubchemqc,
    qm9,
    rxn_yields,
    three_d_moit,
    uspto_500_mt,
)

SOURCES: dict[str, ModuleType] = {
    module.SOURCE.name: module
    for module in (
        mol_instructions,
        uspto_500_mt,
        ord,
        rxn_yields,
        chebi_20,
        qm9,
        pubchem,
        orgsyn_procedures,
        drugchat,
        molecule_qa,
        omni_mol,
        three_d_moit,
        pubchemqc,
        presto,
        openexp,
    )
}
"""Name -> module, in the order in which they are built: of equal rows the earlier source's stays."""
