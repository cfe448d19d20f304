"""The step "edit-one": one fact of any causal language model changed, and what it says before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from asrlife.recipe.edit_facts.editors import Editors
from asrlife.recipe.edit_facts.make import BASE, prompters
from asrlife.recipe.registry import Place


class EditOne(Editors):
    """After `prompt`, in which `subject` stands, the model is to say `target`; `ask` are prompts to complete before and after."""

    kind: Literal["edit-one"]
    subject: str
    prompt: str
    target: str
    phrasings: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    report: str = "one"

    def run(self, place: Place) -> Mapping[str, Any]:
        """Edit by every editor; the deltas and report.html go into out:REPORT."""
        import torch

        from asrlife.data.edit import EditRequest
        from asrlife.delta import file
        from asrlife.delta.weights import applied
        from asrlife.methods.edit.edit import edit
        from asrlife.models.text import load_text

        torch.set_num_threads(self.threads)
        model, request = load_text(self.model), EditRequest(self.subject, self.prompt, self.target, self.phrasings)
        prompts = [self.prompt, *self.ask]
        said = {BASE: model.complete(prompts)}
        for name, prompter in prompters(model, self.premise, ()).items():
            said[name] = model.complete([prompter.asked(request, prompt) for prompt in prompts])
        layers = {}
        with place.bar("editing", len(self.editors)) as advance:
            for name in self.editors:
                editor = self.editor(name, model, [request])
                delta = edit(model, [request], editor)
                with applied(model.module, delta):
                    said[name] = model.complete(prompts)
                file.save(delta, place.out / self.report / f"{name}.safetensors")
                layers[name] = list(editor.layers or ())
                advance()
        page = self.page(prompts, said).write(place.out / self.report)
        rows = {prompt: {who: texts[n].strip() for who, texts in said.items()} for n, prompt in enumerate(prompts)}
        return {"layers": layers, "said": rows, "report": str(page)}

    def page(self, prompts: Sequence[str], said: Mapping[str, Sequence[str]]) -> Any:
        """What each says, a row for each prompt."""
        from asrlife.evaluate.report import Report, Table

        rows = [[prompt, *(texts[n].strip() for texts in said.values())] for n, prompt in enumerate(prompts)]
        title = f"{self.prompt} {self.target}"
        return Report(title, [], [Table("Greedy completions", ["", *said], rows)], [], (), {"model": self.model})
