"""`params.yaml`, typed and checked at the door.

No value that could change a result has a default here: DVC tracks what stands in `params.yaml`, so a default in
code could change unseen. Unknown names are refused, never ignored.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from . import yaml_file
from .errors import UsageError
from .files import folded

Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Failure = Annotated[float, Field(gt=0, lt=0.5)]  # of a guarantee: the probability that a fit misses it
Positive = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
# These become parts of file names, so they must stay inside their folder on every system.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


def _printable(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError(f"printable text on one line, without blanks around it; found {text!r}")
    return text


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"YAML reads this as {value!r}, which is no text: put it in quotes")
    return value


def _no_path(name: str) -> str:
    if "/" in name or "\\" in name or name.startswith("."):
        raise ValueError(f"{name!r} is a path, or hidden; a name has no / and no \\, and does not begin with a dot")
    return name


def _distinct(names: list[str]) -> list[str]:
    if len(set(names)) != len(names):
        raise ValueError(f"each name once; found {names}")
    first: dict[str, str] = {}
    for name in names:
        if (other := first.setdefault(folded(name), name)) != name:
            raise ValueError(
                f"`{other}` and `{name}` are one folder to a file system that ignores case or encodes accents anew"
            )
    return names


# What a class is called: also the name of a folder, and part of the names of columns.
ClassName = Annotated[
    str,
    Field(min_length=1, max_length=60),
    BeforeValidator(_text),
    AfterValidator(_printable),
    AfterValidator(_no_path),
]
Classes = Annotated[list[ClassName], Field(min_length=2), AfterValidator(_distinct)]


Augment = Literal["none", "flip", "shift", "flip_shift", "strong"]
Fusion = Literal["probability", "probability_t1", "logit"]
Mode = Literal["none", "kd", "dkd"]


class StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


class NearParams(StrictModel):
    """When two images are copies of one: see `data.duplicates`."""

    distance: Annotated[int, Field(ge=0, le=8)]
    correlation: Share


class IndexParams(StrictModel):
    seed: Seed
    val: Fraction
    calib: Fraction
    test: Fraction
    near: NearParams
    mirrored: bool
    conflicts: Literal["drop", "majority", "precedence"]
    unreadable: Literal["strict", "quarantine"]

    @model_validator(mode="after")
    def _leaves_a_train_split(self) -> "IndexParams":
        total = self.val + self.calib + self.test
        if total >= 1:
            raise ValueError(f"val + calib + test must be under 1, to leave a train split; found {total:g}")
        return self


class FamilySource(StrictModel):
    """One target of a family: teachers fused with weights that sum to 1, counted with `weight`."""

    weight: Share | Literal["lambda", "1 - lambda"] = Field(description="in the family; they sum to 1")
    teachers: dict[Name, Share] = Field(description="each with its weight in the source; they sum to 1")

    @model_validator(mode="after")
    def _teachers_sum_to_one(self) -> "FamilySource":
        _check_sum(list(self.teachers.values()), f"the weights of teachers {list(self.teachers)}")
        return self


class Family(StrictModel):
    fusion: Fusion = Field(description="what the teachers of a source are averaged as")
    sources: list[FamilySource]
    temperatures: dict[Name, PositiveFloat] = Field(
        default={}, description="by which a teacher's logits are divided before all else; of one not named, by none"
    )

    @model_validator(mode="after")
    def _sources_sum_to_one(self) -> "Family":
        named = [source.weight for source in self.sources if isinstance(source.weight, str)]
        if named and (sorted(named) != ["1 - lambda", "lambda"] or len(self.sources) != 2):
            raise ValueError("a family with lambda has two sources, of weight `lambda` and `1 - lambda`")
        if self.sources and not named:
            _check_sum([float(source.weight) for source in self.sources], "the weights of the sources")
        for name in self.temperatures:
            _check_known("temperatures", name, self.teachers)
        return self

    @property
    def teachers(self) -> list[str]:
        """The teachers that the family reads, each once, in the order they are first named."""
        return list(dict.fromkeys(name for source in self.sources for name in source.teachers))


class Phase(StrictModel):
    """Epochs with one learning rate and one augmentation."""

    epochs: Positive
    lr: PositiveFloat = Field(description="the highest: a tenth of the steps warms up to it, a cosine falls from it")
    augment: Augment = Field(
        description="flip mirrors, shift moves and brightens, flip_shift does both; strong also turns, scales, shears, "
        "colours, blurs and erases"
    )
    strength: Share = Field(default=0.5, description="of `strong`, how far each change may go")
    # Shares are drawn from Beta(a, a); 0: not at all. With both, each image is as likely to be the one as the other.
    mixup: float = Field(
        default=0.0, ge=0, description="of the hard term: Beta's parameter of mixup's shares, 0 for none"
    )
    cutmix: float = Field(default=0.0, ge=0, description="likewise of CutMix; with both, either is as likely")


class NetworkParams(StrictModel):
    """How one network is built and trained."""

    model: str = Field(description="a name from `timm.list_models()`")
    options: dict[str, Any] = Field(description="passed on to `timm.create_model`")
    stem: Literal["stock", "low_resolution"] = Field(description="low_resolution keeps more of a small image")
    init: str = Field(description="`scratch`, `imagenet` (timm's weights), or a safetensors file")
    batch: int = Field(ge=2, description="images of a step, over all processes")
    phases: Annotated[list[Phase], Field(min_length=1)]
    weight_decay: float = Field(ge=0, description="AdamW's")
    label_smoothing: float = Field(ge=0, lt=1, description="share of the hard label that is spread over all classes")


# Words that stand in messages and pages.
Noun = Annotated[str, Field(min_length=1, max_length=60), AfterValidator(_printable)]


class TaskParams(StrictModel):
    """What is classified, in words: a thing and several, a class and several."""

    thing: Noun
    things: Noun
    label: Noun
    labels: Noun
    detector: Literal["faces"] | None


class LaunchParams(StrictModel):
    processes: Positive


class TrainingParams(StrictModel):
    threads: Positive | None
    amp: Literal["auto", "no", "bf16", "fp16"]
    monitor: Literal["nll", "macro_f1"]
    class_weights: Literal["none", "balanced"]
    clip_norm: PositiveFloat | None
    ema: Fraction | None


class BornAgain(StrictModel):
    """Further generations, each distilled from the one before (Furlanello et al., ICML 2018)."""

    generations: Positive = Field(description="after the first")
    alpha: Share = Field(description="weight of the soft labels")
    temperature: PositiveFloat = Field(description="softens both generations in the loss")


class TeacherParams(NetworkParams):
    seed: Seed = Field(description="of this teacher's weights, order and augmentation")
    born_again: BornAgain | None


class FrozenTeacher(StrictModel):
    """A teacher from elsewhere, that is not trained here.

    It takes float32 (N, channels, size, size), pixels scaled to [0, 1], less `mean`, divided by `std`, and gives
    logits in the order of `classes`.
    """

    # Only there, since the stage `params` depends on that directory.
    frozen: str = Field(
        pattern=r"^pretrained/[^/\\]+\.(onnx|safetensors)$", description="an .onnx or .safetensors file in pretrained/"
    )
    model: str | None = Field(description="the timm model that a safetensors file is of; null for ONNX")
    options: dict[str, Any] = Field(description="passed on to `timm.create_model`")
    stem: Literal["stock", "low_resolution"] = Field(default="stock", description="as in a recipe")
    classes: Classes = Field(description="in the order of its logits")
    size: int = Field(ge=16, le=1024, description="pixels of a side that it takes")
    channels: Literal[1, 3] = Field(description="1 for grey, 3 for RGB")
    mean: list[float] = Field(description="of each channel, taken off pixels in [0, 1]")
    std: list[PositiveFloat] = Field(description="of each channel, by which they are divided then")

    @model_validator(mode="after")
    def _fits_together(self) -> "FrozenTeacher":
        if (self.model is None) != self.frozen.endswith(".onnx"):
            raise ValueError("a safetensors file needs the timm `model` that it is of; an ONNX file has none (null)")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std: {self.channels} numbers each, one a channel")
        return self


class TableTeacher(StrictModel):
    """A teacher without a network, of which the soft labels themselves are known."""

    covers: Literal["all", "partial"] = Field(
        description="all: it has soft labels for every image; partial: no weight where it has none"
    )


class SoftLabelsTeacher(TableTeacher):
    """A teacher whose network is not here: soft labels that somebody exported, matched to the index by their paths."""

    # Only there, since the stage `params` depends on that directory.
    softlabels: str = Field(
        pattern=r"^pretrained/[^/\\]+$",
        description="in pretrained/: a .csv, .parquet, .npz or .pt file, or a directory that holds one form of them",
    )
    temperature: PositiveFloat | None = Field(
        description="of the softmax that they were exported at; null where the file says it, or where they are logits"
    )


class VoteParams(StrictModel):
    """How votes become soft labels."""

    smoothing: float = Field(ge=0, description="votes that are added to an image's own, spread evenly over the classes")


class VotesTeacher(TableTeacher):
    """The annotators: their votes in the index, as a distribution over the classes."""

    votes: VoteParams


# For each kind of teacher that a key of its own tells, the key; a recipe has none of them.
BY_KEY: dict[str, type[StrictModel]] = {"frozen": FrozenTeacher, "softlabels": SoftLabelsTeacher, "votes": VotesTeacher}


def _teacher_kind(value: Any) -> str:
    def fits(key: str, kind: type[StrictModel]) -> bool:
        return key in value if isinstance(value, dict) else isinstance(value, kind)

    return next((key for key, kind in BY_KEY.items() if fits(key, kind)), "recipe")


Teacher = Annotated[
    Annotated[TeacherParams, Tag("recipe")]
    | Annotated[FrozenTeacher, Tag("frozen")]
    | Annotated[SoftLabelsTeacher, Tag("softlabels")]
    | Annotated[VotesTeacher, Tag("votes")],
    Discriminator(_teacher_kind),
]


class StudentParams(NetworkParams):
    test_every: Positive = Field(description="epochs between the test evaluations of the report's protocol")


class ImageParams(StrictModel):
    size: int = Field(ge=16, le=1024, description="pixels of a side")
    channels: Literal[1, 3] = Field(description="1 for grey, 3 for RGB")


class CorpusParams(StrictModel):
    """The rendered corpus."""

    seed: Seed
    subjects: Positive = Field(description="people")
    images: Positive = Field(description="of all people together")
    annotators: Positive = Field(description="who vote on each label")
    sharpness: PositiveFloat = Field(description="how far annotators agree")
    votes: bool = Field(description="whether the annotators' votes come with the corpus")
    transfer: int = Field(ge=0, description="images without a label beside those, of people whom no other image shows")


class Scale(StrictModel):
    image: ImageParams
    corpus: CorpusParams
    teachers: dict[Name, Teacher]
    student: StudentParams


class SetParams(StrictModel):
    """Prediction sets: see `evaluation.guarantees.fit_sets`."""

    score: Literal["lac", "aps"]
    target_coverage: Fraction
    class_conditional: bool


class AbstentionParams(StrictModel):
    """Which share of the answers may be wrong, and how often that may fail: see `evaluation.guarantees`."""

    max_risk: Fraction
    delta: Failure
    beside: list[Fraction]


class AlertParams(StrictModel):
    """Which share of a class's alerts is right, and how often that may fail: see `evaluation.guarantees`."""

    min_precision: Fraction
    delta: Failure


class GroupParams(StrictModel):
    """Whose scores are reported apart: see `evaluation.groups`."""

    truth: Annotated[list[Name], AfterValidator(_distinct)]
    min_images: Positive
    min_people: Positive
    permutations: Annotated[int, Field(ge=100)]


class CalibrateParams(StrictModel):
    against: Literal["labels", "votes"]
    grid: Annotated[list[PositiveFloat], Field(min_length=1)]
    bins: Annotated[int, Field(ge=2, le=1000)]
    folds: Annotated[int, Field(ge=2)]
    draws: Annotated[int, Field(ge=100)]
    level: Fraction
    seed: Seed
    sets: SetParams
    abstention: AbstentionParams
    alerts: AlertParams


class Int8Params(StrictModel):
    """What int8 may cost against float32, and how often to try: see `deployment.precision.quantise`."""

    max_macro_f1_loss: Annotated[float, Field(ge=0, le=1)]
    max_ece_rise: Annotated[float, Field(ge=0, le=1)]
    min_same_class: Share
    max_attempts: Annotated[int, Field(ge=1, le=4)]


class ExportParams(StrictModel):
    margin: Annotated[float, Field(ge=-0.4, le=2)]
    opset: Annotated[int, Field(ge=13)]
    tolerance: PositiveFloat
    confidence: Share
    int8: Int8Params | None


class BenchmarkParams(StrictModel):
    batches: Annotated[list[Positive], Field(min_length=1)]
    threads: Positive
    warmup: Annotated[int, Field(ge=0)]
    repeats: Annotated[int, Field(ge=10)]


class DecideParams(StrictModel):
    """What is expected of recipes before any run, and when one is taken: see `study.shrinkage`."""

    default: str
    min_seeds: Annotated[int, Field(ge=2)]
    spread: Fraction
    seed_noise: Fraction
    people_noise: Share
    confidence: Annotated[float, Field(ge=0.5, lt=1)]
    near: Share
    max_p95_ms: PositiveFloat
    max_mb: PositiveFloat


class Params(StrictModel):
    """The whole of `params.yaml`. `scale_` and `family_` are the chosen ones."""

    family: Name
    mode: Mode
    seed: Seed
    lambda_: Annotated[Share, Field(alias="lambda")]
    alpha: Share
    beta: Annotated[float, Field(ge=0)]
    temperature: PositiveFloat
    dkd_target_term: Literal["official", "report"]
    dkd_warmup: Annotated[int, Field(ge=0)]
    views: Positive
    view_augment: Literal["shift", "flip_shift", "strong"]
    top_k: Positive | None = None  # which experiments of earlier commits do not name
    launch: LaunchParams
    scale: Name
    corpus: Name
    index_tag: Name
    task: TaskParams
    classes: Classes
    index: IndexParams
    teachers: list[Name]
    families: dict[Name, Family]
    training: TrainingParams
    calibrate: CalibrateParams
    groups: GroupParams
    export: ExportParams
    benchmark: BenchmarkParams
    decide: DecideParams
    scales: dict[Name, Scale]

    @model_validator(mode="after")
    def _names_are_known(self) -> "Params":
        _check_known("family", self.family, self.families)
        _check_known("scale", self.scale, self.scales)
        if len(set(self.teachers)) != len(self.teachers):
            raise ValueError(f"teachers: each name once; found {self.teachers}")
        # A family that is not chosen may be of teachers that another scale has.
        anywhere = list(dict.fromkeys([*self.teachers, *(t for scale in self.scales.values() for t in scale.teachers)]))
        for name, family in self.families.items():
            for teacher in family.teachers:
                _check_known(f"families.{name}", teacher, self.teachers if name == self.family else anywhere)
        for name, teacher_ in self.scale_.teachers.items():
            if isinstance(teacher_, FrozenTeacher) and sorted(teacher_.classes) != sorted(self.classes):
                raise ValueError(f"scales.{self.scale}.teachers.{name}: classes {teacher_.classes}, not {self.classes}")
        blind = [name for name in self.family_.teachers if isinstance(self.scale_.teachers.get(name), TableTeacher)]
        if self.views > 1 and blind:
            raise ValueError(
                f"views: {', '.join(blind)} cannot label further views: there is no network; set views to 1"
            )
        if self.views > 1 and any(phase.augment != self.view_augment for phase in self.scale_.student.phases):
            raise ValueError(f"views: recorded views are {self.view_augment}, so every phase of the student must be")
        if self.top_k is not None and self.top_k >= len(self.classes):
            raise ValueError(f"top_k: fewer than the {len(self.classes)} classes, or null for all; found {self.top_k}")
        if self.top_k is not None and self.views > 1:
            raise ValueError("top_k: soft labels of further views keep all classes; set views to 1, or top_k to null")
        without = [teacher for teacher in self.teachers if teacher not in self.scale_.teachers]
        if without:
            raise ValueError(f"scales.{self.scale}.teachers: no recipe for {', '.join(without)}")
        return self

    @property
    def scale_(self) -> Scale:
        return self.scales[self.scale]

    @property
    def family_(self) -> Family:
        return self.families[self.family]


def load(path: Path | str = "params.yaml") -> Params:
    """Read and check a params file.

    Raises
    ------
    UsageError
        Naming each wrong parameter, what was found, and what was expected.
    """
    path = Path(path)
    try:
        raw = yaml_file.read(path)
    except FileNotFoundError:
        raise UsageError(
            "no params file here", where=str(path.absolute()), hint="run from the repository's root"
        ) from None
    if not isinstance(raw, dict):
        raise UsageError("a params file is a mapping of names to values", where=str(path))
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        problems = "params do not fit:\n" + explain(error, Params)
        raise UsageError(problems, where=str(path), hint="see the comments in params.yaml") from None


def check_classes(names: list[str]) -> list[str]:
    """Classes that do not come from params.yaml, by the same rules; UsageError if they break one."""
    try:
        return TypeAdapter(Classes).validate_python(names)
    except ValidationError as error:
        raise UsageError("classes do not fit:\n" + explain(error, Params), where="--classes") from None


def check_family_name(name: str, params: Params) -> None:
    """Stop with a UsageError unless a family of this name can be added to params.yaml."""
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise UsageError(f"no name of a family: {name!r}", expected="letters, digits, and . _ - within") from None
    if name in params.families:
        raise UsageError(f"there is a family `{name}`", where="params.yaml, families", hint="choose another name")


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """A line for each thing that `model` found wrong, with the name that was perhaps meant."""
    lines = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown parameter" + _did_you_mean(str(item["loc"][-1]), _sibling_names(item["loc"], model))
        elif item["type"] == "missing":
            message = "missing"
        elif item["type"] != "value_error":
            found = repr(item["input"])
            found = found if len(found) <= 200 else f"{found[:200]}…"
            message = f"{message[0].lower()}{message[1:]}; found {found}"
        lines.append(f"  {name}: {message}" if name else f"  {message}")
    return "\n".join(lines)


def _sibling_names(location: tuple[int | str, ...], model: Any) -> list[str]:
    """Names that would have been right where `location` ends."""
    for part in location[:-1]:
        field = next((f for n, f in model.model_fields.items() if part in (n, f.alias)), None) if model else None
        model = _section_of(field.annotation) if field else model
    return [field.alias or name for name, field in model.model_fields.items()]


def _section_of(annotation: Any) -> Any:
    """The model inside an annotation such as `dict[str, Family]`; keys and list positions keep it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in getattr(annotation, "__args__", ()) if (found := _section_of(arg))), None)


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean `{close[0]}`?" if close else f"; known here: {', '.join(known)}"


def _check_known(where: str, name: str, known: Any) -> None:
    if name not in known:
        raise ValueError(f"{where}: unknown `{name}`" + _did_you_mean(name, list(known)))


def _check_sum(weights: list[float], what: str) -> None:
    if abs(sum(weights) - 1) > 1e-9:
        raise ValueError(f"{what} must sum to 1; they sum to {sum(weights):g}")
