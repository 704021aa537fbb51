"""The fifteen tasks of the paper, in the order in which tables list them, and four that go with them."""

from omnimol_hf.tasks.alignment import ALIGNMENT
from omnimol_hf.tasks.base import Task
from omnimol_hf.tasks.catalyst_prediction import CATALYST_PREDICTION
from omnimol_hf.tasks.complexity import COMPLEXITY
from omnimol_hf.tasks.description_qa import DESCRIPTION_QA
from omnimol_hf.tasks.experiment_procedure import EXPERIMENT_PROCEDURE
from omnimol_hf.tasks.forward_prediction import FORWARD_PREDICTION
from omnimol_hf.tasks.homo_lumo import HOMO_LUMO
from omnimol_hf.tasks.iupac_to_selfies import IUPAC_TO_SELFIES
from omnimol_hf.tasks.logp import LOGP
from omnimol_hf.tasks.molecular_captioning import MOLECULAR_CAPTIONING
from omnimol_hf.tasks.molecular_weight import MOLECULAR_WEIGHT
from omnimol_hf.tasks.molecule_editing import MOLECULE_EDITING
from omnimol_hf.tasks.reagent_prediction import REAGENT_PREDICTION
from omnimol_hf.tasks.retrosynthesis import RETROSYNTHESIS
from omnimol_hf.tasks.scf_energy import SCF_ENERGY
from omnimol_hf.tasks.solvent_prediction import SOLVENT_PREDICTION
from omnimol_hf.tasks.text_guided_generation import TEXT_GUIDED_GENERATION
from omnimol_hf.tasks.tpsa import TPSA
from omnimol_hf.tasks.yield_regression import YIELD_REGRESSION

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        FORWARD_PREDICTION,
        RETROSYNTHESIS,
        REAGENT_PREDICTION,
        SOLVENT_PREDICTION,
        CATALYST_PREDICTION,
        YIELD_REGRESSION,
        HOMO_LUMO,
        SCF_ENERGY,
        LOGP,
        TPSA,
        COMPLEXITY,
        MOLECULAR_WEIGHT,
        MOLECULAR_CAPTIONING,
        DESCRIPTION_QA,
        EXPERIMENT_PROCEDURE,
    )
}
EXTRA_TASKS: dict[str, Task] = {
    task.name: task for task in (IUPAC_TO_SELFIES, TEXT_GUIDED_GENERATION, MOLECULE_EDITING, ALIGNMENT)
}
"""Outside the fifteen, and outside the `unified` config: three that the paper's later version adds, and stage 1."""

ALL_TASKS: dict[str, Task] = TASKS | EXTRA_TASKS


def task_prompts() -> dict[str, dict[str, str]]:
    """What a processor needs of every task to ask its question: `{name: {"prompt", "graph_rule", "instruction"}}`.

    The extra tasks too: their rows can be trained on as well. Plain JSON types, because it is saved with the
    checkpoint. A task that asks for one of several quantities (HOMO, LUMO, gap) ships the wording for the last of
    them.
    """
    return {
        task.name: {
            "prompt": task.prompt,
            "graph_rule": task.graph_rule,
            "instruction": task.instruction(0, next(reversed(task.properties), "")),
        }
        for task in ALL_TASKS.values()
    }


__all__ = ["ALL_TASKS", "EXTRA_TASKS", "TASKS", "Task", "task_prompts"]
