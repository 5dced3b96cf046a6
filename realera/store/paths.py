"""Where artifacts lie: the one place that names their files."""

from dataclasses import dataclass
from pathlib import Path

from realera.settings.errors import ConfigError
from realera.settings.presets import check_name

ARTIFACTS = Path("artifacts")
REPORTS = Path("reports")
FIGURES = REPORTS / "figures.csv"
SHARED = ARTIFACTS / "shared"
SUBJECTS = SHARED / "subjects.json"
BASE_IMAGES = SHARED / "base.parquet"
REALERA = "realera"
"""The method whose work is several stages."""


@dataclass(frozen=True)
class MethodPlace:
    """Where the files of one method's erasure of one concept lie.

    Attributes:
        root: artifacts/<concept>/<method>.
    """

    root: Path

    @property
    def parts(self) -> Path:
        """Folder of what the stages before `erase` made for it; at least its task."""
        return self.root / "parts"

    @property
    def task(self) -> Path:
        """What the method is asked, as the stage `task` has checked it."""
        return self.parts / "task.json"

    @property
    def erasure(self) -> Path:
        """Folder of the finished erasure."""
        return self.root / "erasure"

    @property
    def images(self) -> Path:
        """What the erased model drew."""
        return self.root / "images.parquet"

    @property
    def scores(self) -> Path:
        """Raw rows of both models' images."""
        return self.root / "scores.parquet"

    @property
    def summary(self) -> Path:
        """The figures with their intervals."""
        return self.root / "scores.json"

    @property
    def samples(self) -> Path:
        """RealEra's neighbor and beyond samples."""
        return self.root / "samples.parquet"

    @property
    def mining(self) -> Path:
        """What the samples are."""
        return self.root / "mining.json"

    @property
    def moments(self) -> Path:
        """What infinitely many samples around each token average to."""
        return self.root / "moments.parquet"

    @property
    def sums(self) -> Path:
        """Folder of what each target's prompts and samples sum up to in the closed form."""
        return self.root / "sums"

    @property
    def solve(self) -> Path:
        """What the closed form did."""
        return self.root / "solve.json"

    @property
    def loss(self) -> Path:
        """The training's log."""
        return self.root / "loss.csv"

    @property
    def kv_patch(self) -> Path:
        """RealEra's cross-attention weights by the closed form."""
        return self.parts / "kv_patch.safetensors"

    @property
    def solved(self) -> Path:
        """Of which weights RealEra's closed form is, and with which parameters."""
        return self.parts / "solved.json"

    @property
    def trained(self) -> Path:
        """With which parameters RealEra's LoRA was trained."""
        return self.parts / "trained.json"

    @property
    def lora(self) -> Path:
        """Folder of RealEra's LoRA on top of them."""
        return self.parts / "lora"


@dataclass(frozen=True)
class Place:
    """Where the files of one concept lie.

    Attributes:
        root: artifacts/<concept>, or a scratch folder of the same layout.
    """

    root: Path

    @property
    def prompts(self) -> Path:
        """Prompts with their token spans and embeddings."""
        return self.root / "prompts.parquet"

    @property
    def latents(self) -> Path:
        """The original model's images of the anchors, encoded."""
        return self.root / "anchor_latents.safetensors"

    @property
    def originals(self) -> Path:
        """The original model's images of the concept's own words."""
        return self.root / "originals.parquet"

    @property
    def judged(self) -> Path:
        """Raw rows of the original model's images, its own and the shared ones."""
        return self.root / "judged.parquet"

    def of(self, method: str) -> MethodPlace:
        """Return the place of a method."""
        return MethodPlace(self.root / method)


def place(concept: str) -> Place:
    """Return where a concept's artifacts lie.

    Raises:
        ConfigError: the concept's name could leave the folder.
    """
    check_name(concept)
    return Place(ARTIFACTS / concept)


def method_place(concept: str, method: str) -> MethodPlace:
    """Return where a method's artifacts of a concept lie.

    Raises:
        ConfigError: a name could leave the folder.
    """
    if not method.isidentifier():
        raise ConfigError(f"method: found {method!r}; accepted: a method's name")
    return place(concept).of(method)
