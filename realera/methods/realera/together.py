"""Many concepts in one closed form: added and withdrawn one by one, by their sums.

A folder holds the sums over all its members, and is an erasure itself:

    erasure.json, overlay.safetensors   see `realera.erasures.artifact`; the closed form alone, without a LoRA
    members.json                        targets with their anchors, and what each preset keeps
    total.safetensors                   sums of the groups target, neighbor, beyond and preserve, float64 [d, d]
    kept.safetensors                    embeddings of every text that some member keeps, float32 [n, T, d]

What stays is what all members keep: a preset that preserves "cat" does so no longer beside one that erases it.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from realera.erasures.artifact import Erasure, check_is_free, weights_sha256
from realera.methods.common.closed_form import Gram
from realera.methods.realera.rows import MINED, solve_grams
from realera.methods.realera.sums import TargetSums, no_grams, read_verified
from realera.methods.seam import description
from realera.settings.config import Params
from realera.settings.errors import ArtifactError, ConfigError
from realera.settings.presets import Preset, as_read, spelled
from realera.settings.yaml_file import explain
from realera.store.artifacts import atomic_path, read_json, read_safetensors, write_json, write_safetensors
from realera.store.paths import REALERA, Place
from realera.text.prompt_table import PromptTable

MEMBERS = "members.json"
TOTAL = "total.safetensors"
KEPT = "kept.safetensors"


class Member(BaseModel):
    """A target that is erased.

    Attributes:
        preset: that it is of.
        anchor: what it becomes.
        content: see `TargetSums`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str
    anchor: str
    content: str


class Members(BaseModel):
    """The content of members.json.

    Attributes:
        model: id of the base model.
        sampler: section of the parameters by which all were mined.
        targets: name -> what is known of it.
        keeps: preset -> the texts that it preserves.
        texts: of kept.safetensors, in its order.
        rows: number of rows of each group in total.safetensors.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    sampler: dict[str, Any]
    targets: dict[str, Member]
    keeps: dict[str, tuple[str, ...]]
    texts: tuple[str, ...]
    rows: dict[str, int]


SumsOf = Callable[[str, str], TargetSums]
"""(preset, target) -> the target's sums, as they are on disk."""


@dataclass
class Together:
    """Sums over several targets, changed in place.

    Attributes:
        model: id of the base model.
        sampler: section of the parameters.
        targets: by name.
        keeps: preset -> the texts that it preserves.
        texts: text -> its embedding [T, d], of all presets.
        grams: by group, with "preserve" over the texts that all presets keep.
    """

    model: str
    sampler: dict[str, Any]
    grams: dict[str, Gram]
    targets: dict[str, Member] = field(default_factory=dict)
    keeps: dict[str, tuple[str, ...]] = field(default_factory=dict)
    texts: dict[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def nothing(cls, width: int, params: Params) -> "Together":
        """Return sums of nothing for a text encoder of a width."""
        grams = {**no_grams(width), "preserve": Gram(width, stays=True)}
        return cls(params.model.id, params.sampler.model_dump(mode="json"), grams)

    def kept(self) -> list[str]:
        """Return the texts that all presets keep, in the order of the first."""
        sets = [set(texts) for texts in self.keeps.values()]
        return [text for text in next(iter(self.keeps.values()), ()) if all(text in each for each in sets)]

    def add(self, name: str, preset: Preset, place: Place, params: Params) -> None:
        """Add all targets of a preset.

        Args:
            name: of the preset.
            preset: its targets and anchors.
            place: of its prompts and sums.
            params: of the project; model and sampler must be those of the members.

        Raises:
            ConfigError: a target is in already, or an anchor of one is a target of another.
            ArtifactError: prompts or sums are missing or corrupt, or of another model, sampler or of other prompts.
        """
        table = PromptTable.read(place.prompts)
        self._check_fits(name, table, params, place)
        anchors = dict(preset.pairs())
        found = [read_verified(place.of(REALERA).sums, table, params.sampler, target) for target in anchors]
        self._check_names(name, anchors)
        before = self.kept()
        for each in found:
            each.form.add_to(self.grams)
            self.targets[each.target] = Member(preset=name, anchor=anchors[each.target], content=each.content)
        rows = [index for index, prompt in enumerate(table.prompts) if prompt.role == "preserve"]
        self.keeps[name] = tuple(table.prompts[index].text for index in rows)
        self.texts |= {table.prompts[index].text: table.embeddings[index] for index in rows}
        self._keep(before)

    def withdraw(self, name: str, sums_of: SumsOf) -> None:
        """Take a target away, or all targets of a preset.

        Raises:
            ConfigError: it is not in, or nothing would be left.
            ArtifactError: its sums are missing, or are no longer those that were added.
        """
        known = spelled(name, self.targets)
        gone = [known] if known else [key for key, each in self.targets.items() if each.preset == name]
        if not gone or len(gone) == len(self.targets):
            others = ", ".join(sorted(self.targets))
            problem = "which is not in" if not gone else "after which no target would be left"
            raise ConfigError(f"--withdraw: found {name!r}, {problem}; there are: {others}")
        found = [sums_of(self.targets[target].preset, target) for target in gone]
        for each in found:
            if each.content != self.targets[each.target].content:
                raise ArtifactError(
                    f"{each.target}: its sums are not those that were added: mined anew since; make the folder anew"
                )
        before = self.kept()
        for each in found:
            for group, gram in each.grams().items():
                self.grams[group].merge(gram, -1)
            del self.targets[each.target]
        presets = {each.preset for each in self.targets.values()}
        self.keeps = {preset: texts for preset, texts in self.keeps.items() if preset in presets}
        used = {text for texts in self.keeps.values() for text in texts}
        self._keep(before)
        self.texts = {text: embedding for text, embedding in self.texts.items() if text in used}

    def solve(self, original: Mapping[str, torch.Tensor], params: Params, family: str) -> Erasure:
        """Solve equation 7 for the K and V weights of the base model.

        Raises:
            ConfigError: the weights are of another width, or the ridge is too small.
        """
        width = len(self.grams["target"].source)
        for key, weight in original.items():
            if weight.shape[1] != width:
                raise ConfigError(f"model.id: {key} reads embeddings of width {weight.shape[1]}, the sums have {width}")
        ordered = {group: self.grams[group] for group in ("target", "neighbor", "preserve", "beyond")}
        solution = solve_grams(ordered, params.solver)
        used = {"sampler": self.sampler, "solver": params.solver.model_dump(mode="json")}
        pairs = tuple((target, each.anchor) for target, each in sorted(self.targets.items()))
        about = description(pairs, params, REALERA, family, used, weights_sha256(original))
        report = {"condition_number": solution.condition_number, "ridge": solution.ridge, "rows": self._rows()}
        return Erasure(about, {key: solution.apply(weight) for key, weight in original.items()}, report=report)

    def save(self, erasure: Erasure, folder: Path) -> None:
        """Write the folder, whole or not at all.

        Raises:
            ArtifactError: it holds something else, or cannot be written.
        """
        check_is_free(folder)
        texts = sorted(self.texts)
        about = Members(
            model=self.model,
            sampler=self.sampler,
            targets=self.targets,
            keeps=self.keeps,
            texts=tuple(texts),
            rows=self._rows(),
        )
        with atomic_path(folder) as target:
            erasure.save(target)
            write_json(about.model_dump(mode="json"), target / MEMBERS)
            write_safetensors(self._tensors(), target / TOTAL)
            stacked = torch.stack([self.texts[text] for text in texts]) if texts else torch.zeros(0, 1, 1)
            write_safetensors({"embeddings": stacked}, target / KEPT)

    @classmethod
    def read(cls, folder: Path) -> "Together":
        """Read a folder.

        Raises:
            ArtifactError: a file is missing or corrupt, or they are not of one another.
        """
        try:
            about = Members.model_validate_json(json.dumps(read_json(folder / MEMBERS)))
        except ValidationError as error:
            raise ArtifactError(f"{folder / MEMBERS}: {explain(error, Members)[0]}") from error
        names = [f"{group}.source" for group in (*MINED, "preserve")] + ["target.cross", "neighbor.cross"]
        tensors = read_safetensors(folder / TOTAL, names)
        embeddings = read_safetensors(folder / KEPT, ["embeddings"])["embeddings"]
        if len(embeddings) != len(about.texts):
            raise ArtifactError(f"{folder / KEPT}: found {len(embeddings)} texts, {MEMBERS} names {len(about.texts)}")
        grams = {**no_grams(len(tensors["target.source"])), "preserve": Gram(1, stays=True)}
        for group, gram in grams.items():
            stays, gram.num_rows = gram.stays, about.rows[group]
            gram.source = tensors[f"{group}.source"]
            gram.cross = gram.source if stays else tensors[f"{group}.cross"]
        texts = dict(zip(about.texts, embeddings, strict=True))
        return cls(about.model, about.sampler, grams, dict(about.targets), dict(about.keeps), texts)

    def _rows(self) -> dict[str, int]:
        return {group: gram.num_rows for group, gram in self.grams.items()}

    def _tensors(self) -> dict[str, torch.Tensor]:
        found = {f"{group}.source": gram.source for group, gram in self.grams.items()}
        return found | {f"{group}.cross": gram.cross for group, gram in self.grams.items() if not gram.stays}

    def _keep(self, before: Iterable[str]) -> None:
        """Bring the sums of what stays up to date."""
        then, now = set(before), set(self.kept())
        for texts, sign in ((sorted(now - then), 1), (sorted(then - now), -1)):
            if texts:
                change = Gram(len(self.grams["preserve"].source), stays=True)
                change.add(torch.cat([self.texts[text] for text in texts]))
                self.grams["preserve"].merge(change, sign)

    def _check_fits(self, name: str, table: PromptTable, params: Params, place: Place) -> None:
        width = len(self.grams["target"].source)
        if (self.model, width) != (params.model.id, table.width):
            raise ArtifactError(
                f"{place.prompts}: found embeddings of width {table.width} of {params.model.id}; "
                f"the members' are of width {width} of {self.model}"
            )
        if self.sampler != params.sampler.model_dump(mode="json"):
            raise ConfigError(f"sampler: found other values than the members of the folder were mined by ({name})")
        for index, prompt in enumerate(table.prompts):
            known = self.texts.get(prompt.text) if prompt.role == "preserve" else None
            if known is not None and not torch.equal(known, table.embeddings[index]):
                raise ArtifactError(f"{place.prompts}: {prompt.text!r}: found another embedding than the members have")

    def _check_names(self, name: str, anchors: Mapping[str, str]) -> None:
        known = {as_read(target): target for target in self.targets}
        if name in self.keeps or any(as_read(target) in known for target in anchors):
            raise ConfigError(f"--add: found {name!r}, which is in already; accepted: another preset")
        every = {**{target: each.anchor for target, each in self.targets.items()}, **anchors}
        targets = {as_read(target) for target in every}
        for target, anchor in every.items():
            if as_read(anchor) in targets:
                raise ConfigError(f"--add: found {name!r}: {anchor!r}, the anchor of {target!r}, would be erased, too")
