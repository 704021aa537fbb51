"""A page in the browser: type a SMILES, choose a task, read the answer.

pip install -e '.[demo]'        # in an environment of its own: gradio 6 wants huggingface_hub below 2
python recipes/demo.py --model outputs/quickstart/model
"""

from __future__ import annotations

import argparse

import gradio as gr
from rdkit.Chem import Draw
from transformers import AutoModel, AutoProcessor

import omnimol_hf  # noqa: F401  (registers the model, so that no remote code has to be trusted)
from omnimol_hf.chemistry_omnimol import mol_from_smiles


def build_page(model_id: str) -> gr.Interface:
    """The page for a checkpoint, local or on the hub."""
    model = AutoModel.from_pretrained(model_id).eval()
    processor = AutoProcessor.from_pretrained(model_id)

    def answer(task: str, smiles: str, question: str) -> tuple[object, str]:
        try:
            messages = processor.task_messages(task, molecule=smiles, instruction=question.strip() or None)
            picture = Draw.MolToImage(mol_from_smiles(smiles.split(">>")[0]), size=(400, 300))
        except ValueError as error:
            raise gr.Error(str(error)) from error
        inputs = processor.apply_chat_template(
            messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        new = model.generate(**inputs, do_sample=False, max_new_tokens=256)[:, inputs["input_ids"].shape[1] :]
        return picture, processor.batch_decode(new, skip_special_tokens=True)[0]

    return gr.Interface(
        answer,
        inputs=[
            gr.Dropdown(sorted(processor.task_prompts), value="molecular_weight", label="Task"),
            gr.Textbox("CC(=O)Oc1ccccc1C(=O)O", label="SMILES (a reaction as reactants>>product)"),
            gr.Textbox(label="Question (optional; the task's own when empty)"),
        ],
        outputs=[gr.Image(label="Molecule"), gr.Textbox(label="Answer")],
        title="Omni-Mol",
        description=f"`{model_id}`. Answers are a language model's: check them.",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint folder or hub id")
    parser.add_argument("--port", type=int, default=7860)
    options = parser.parse_args()
    build_page(options.model).launch(server_name="127.0.0.1", server_port=options.port)
