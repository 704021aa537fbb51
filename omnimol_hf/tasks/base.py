"""What a task is: how its question is asked, which molecules become graphs, and how an answer is written and read."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Task:
    """One of the tasks (Section 4.1 and Appendix J of the paper).

    Attributes:
        name: The dataset's config name and the value of its `task` column.
        category: `"reaction"`, `"regression"`, `"description"` or `"action"`; `"generation"` of some extra tasks.
        prompt: The user's text after the graph, with the fields `{instruction}` and, but for `alignment`, `{input}`.
            Spaces and final dots are those of the authors' data: a model trained on one form reads another one worse.
        graph_rule: Which molecules of `input` become graph tokens: `"whole"` (all of it), `"first"` (up to the first
            dot), `"reactants"` (all on the left of `>>`), `"placeholders"` (those named `$k$`, k >= 0, in a
            procedure) or `"none"`.
        answer: How an answer is read and scored: `"molecule"`, `"number"`, `"text"` or `"procedure"`.
        record_input, record_output: How a source's record becomes the row's input and output: the fields are roles of
            its molecules (`{reactants}`, written in SELFIES), `{components}` (a procedure's, by role), `{text}`, or
            `{value}` in `answer_format`.
        instructions: Interchangeable wordings of the request; the first is the one that `task_prompts` ships.
        unit: The unit of a number, as the dataset card prints it; None where there is none.
        answer_format: How a computed label (one positional field) is written as an answer.
        properties: For a task that asks for one of several quantities: `subset` of the row -> the words that fill
            `{property}` in an instruction.
    """

    name: str
    category: str
    prompt: str
    graph_rule: str
    answer: str
    record_input: str
    record_output: str
    instructions: tuple[str, ...]
    unit: str | None = None
    answer_format: str = "{}"
    properties: Mapping[str, str] = field(default_factory=dict)

    def instruction(self, number: int, subset: str = "") -> str:
        """The `number`-th wording (counted round and round), with the words for `subset` filled in.

        Raises:
            ValueError: If the task asks for one of several quantities and `subset` names none of them.
        """
        template = self.instructions[number % len(self.instructions)]
        if not self.properties:
            return template
        if subset not in self.properties:
            raise ValueError(f"{self.name} has no subset {subset!r}; it has {', '.join(self.properties)}.")
        return template.format(property=self.properties[subset])

    def user_text(self, instruction: str, input: str) -> str:
        """What the user says after the graph, for one row."""
        return self.prompt.format(instruction=instruction, input=input)

    def answer_text(self, value: float | str) -> str:
        """A label as the assistant would say it, e.g. `The LogP for the input molecule is -1.20.`"""
        return self.answer_format.format(value)
