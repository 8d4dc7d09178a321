"""Profiling: read the facts of a workload once, check its contract on the way, and score its original model."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.batching import as_arrays, collated, example_batches
from evaluators.cache import StageCache
from evaluators.contract import (
    SplitHashes,
    check_duplicates,
    check_metric,
    check_model,
    check_overlap,
    check_scoring,
    hash_examples,
    load_splits,
)
from evaluators.errors import NotFiniteError, UnsupportedError, WorkloadError, ran_out_of_memory
from evaluators.frozen import digest
from evaluators.jobs import JobResult, ProfileJob
from evaluators.profile import Problem, Prunable, WorkloadProfile, fingerprint_of
from evaluators.registry import pruners
from evaluators.scoring import metric_name, output_arrays
from evaluators.stages.clock import StageClock
from evaluators.stages.prepare import count_flops
from evaluators.stages.reference import example_file, original_scores
from evaluators.stages.restore import build_model, layer_sizes, save_model
from evaluators.structure import Structure, TensorSpec, call, flatten
from evaluators.target import environment, probe_processor
from evaluators.workload import Workload, absolute_reference, load_workload

PROBED_BATCHES = 6


def profile_workload(job: ProfileJob, clock: StageClock) -> JobResult:
    """Return the profile of a workload, or its problems where it breaks its contract.

    Raises:
        WorkloadError: the workload cannot be loaded at all.
        NotFiniteError: the model returns NaN or infinity on its own data.
    """
    import torch

    torch.set_num_threads(probe_processor().cores)
    with clock.stage("load"):
        workload = load_workload(job.workload)
        model = workload.model()
        problems = check_model(workload, model)
        model = build_model(workload)
    with clock.stage("data"):
        splits = load_splits(workload, problems)
        hashes = {name: hash_examples(split) for name, split in splits.items()}
        problems += check_overlap(hashes) + check_duplicates(hashes)
    if any(problem.level == "error" for problem in problems):
        return JobResult(problems=tuple(problems))
    with clock.stage("structure"), torch.inference_mode():
        inputs, outputs = _structures(workload, model, splits["validation"])
        problems += check_scoring(workload)
    with clock.stage("score"):
        facts = _facts(workload, model, hashes)
        home = Path(job.home)
        original = original_scores(
            workload, outputs, fingerprint_of(**facts), facts["data_digests"]["validation"], home
        )
    with clock.stage("export"):
        exportable, dynamic_batch = _exportable(workload, model, inputs, outputs, facts, home)
    if exportable is not None:
        advice = "only backends that run the module itself apply"
        problems.append(Problem(level="warning", what=exportable, advice=advice))
    example = next(example_batches(splits["validation"], workload.collate, 1))[0]
    _keep_example(example_file(home, fingerprint_of(**facts)), example)
    profile = WorkloadProfile(
        name=workload.name,
        reference=absolute_reference(job.workload),
        **facts,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        size_bytes=sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()),
        flops=count_flops(model, example),
        inputs=inputs,
        outputs=outputs,
        layers=_layers(model),
        widths=_widths(model),
        exportable=exportable,
        dynamic_batch=dynamic_batch,
        has_train=workload.train is not None,
        accuracy=original.mean,
        examples=len(splits["validation"]),
        calibration_examples=len(splits["calibration"]),
        scored_by=metric_name(workload),
        per_example=workload.metric is not None and original.per_example is not None,
        problems=tuple(problems),
        prunable=_prunable(model, collated([splits["calibration"][0]] * 2, workload.collate)[0], facts, home),
    )
    return JobResult(profile=profile)


def _prunable(model: Any, example: Any, facts: dict[str, Any], home: Path) -> dict[str, Prunable]:
    """Return what each pruner finds in the model, looked up once for each model."""

    def make(folder: Path) -> None:
        found = {structure: item.to_json() for structure, item in _looked(copy.deepcopy(model), example).items()}
        (folder / "prunable.json").write_text(json.dumps(found))

    known = sorted([structure, source_of(type(pruner))] for structure, pruner in pruners().items())
    key = digest(["prunable", facts["model_digest"], facts["data_digests"]["calibration"], known, environment()])
    entry = StageCache(home / "cache" / "stages").get_or_make(key, make, "prunable")
    found = json.loads((entry.folder / "prunable.json").read_text())
    return {structure: Prunable.model_validate(item) for structure, item in found.items()}


def _looked(copied: Any, example: Any) -> dict[str, Prunable]:
    """Return what each pruner finds in a copy of the model; one that cannot be looked into cannot be pruned so."""
    found = {}
    for structure, pruner in pruners().items():
        try:
            looked = pruner.look(copied, example)
        except Exception as error:  # whatever a model's own code raises there is a property of the model
            looked = Prunable(why_not=f"it cannot be looked into: {type(error).__name__}: {error}")
        if looked is not None:
            found[structure] = looked
    return found


def _keep_example(path: Path, inputs: Any) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, **as_arrays(inputs))  # type: ignore[arg-type]
        temporary.replace(path)


def _structures(workload: Workload, model: Any, dataset: Any) -> tuple[Structure, Structure]:
    """Learn the named tensors of a batch, and which of their axes vary, from real batches of two."""
    seen_inputs: list[dict[str, Any]] = []
    seen_outputs: list[dict[str, Any]] = []
    styles = ("tensor", "tensor")
    total = len(dataset)
    for k in range(PROBED_BATCHES):
        first = (k * max(1, total // PROBED_BATCHES)) % total
        inputs, targets = collated([dataset[first], dataset[(first + 1) % total]], workload.collate)
        try:
            raw = call(model, inputs)
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError) as error:
            if ran_out_of_memory(error):
                raise
            shapes = {name: tuple(tensor.shape) for name, tensor in flatten(inputs, "input")[1].items()}
            what = f"the model cannot take a batch of its own validation data, {shapes}"
            raise WorkloadError(f"{what}: {error}") from error
        input_style, _ = flatten(inputs, "input")
        output_style, named_outputs = flatten(raw, "output")
        for name, tensor in named_outputs.items():
            if tensor.ndim == 0 or tensor.shape[0] != 2:
                raise WorkloadError(
                    f"{name} has shape {tuple(tensor.shape)} for a batch of 2 examples; axis 0 must be the batch"
                )
        for name, array in zip(named_outputs, output_arrays(raw), strict=True):
            if not np.isfinite(array).all():
                raise NotFiniteError(f"the original model's {name} is NaN or infinite on validation data")
        if k == 0:
            check_metric(workload, raw, targets)
        styles = (input_style, output_style)
        seen_inputs.append(as_arrays(inputs))
        seen_outputs.append(named_outputs)
    return _structure(styles[0], seen_inputs), _structure(styles[1], seen_outputs)


def _structure(style: str, seen: Sequence[dict[str, Any]]) -> Structure:
    tensors = []
    for name in seen[0]:
        shapes = [tuple(batch[name].shape) for batch in seen]
        if len({len(shape) for shape in shapes}) > 1:
            what = f"{name} has shape {shapes[0]} in one batch and {shapes[-1]} in another"
            raise WorkloadError(f"{what}: axes must not come and go")
        axes = [sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*shapes, strict=True)]
        dtype = str(seen[0][name].dtype).removeprefix("torch.")
        tensors.append(TensorSpec(name=name, dtype=dtype, shape=(None, *axes[1:])))
    return Structure.model_validate({"style": style, "tensors": tuple(tensors)})


def _exportable(
    workload: Workload, model: Any, inputs: Structure, outputs: Structure, facts: dict[str, Any], home: Path
) -> tuple[str | None, bool]:
    """Return why the model cannot be exported (or None), and whether one export serves every batch size."""
    from evaluators.stages.export import export_program

    shape = _ExportShape(inputs, outputs)

    def make(folder: Path) -> None:
        answer: tuple[str | None, bool] = (None, True)
        for batch_size in (None, 2):
            example = next(example_batches(workload.calibration(), workload.collate, 2))[0]
            try:
                export_program(model, example, shape, batch_size)  # type: ignore[arg-type]
                answer = (None, batch_size is None)
                break
            except UnsupportedError as error:
                answer = (str(error), False)
        (folder / "answer.json").write_text(json.dumps(answer))

    key = digest(["exportable", facts["model_digest"], inputs.to_json(), outputs.to_json(), environment()])
    entry = StageCache(home / "cache" / "stages").get_or_make(key, make, "exportable")
    reason, dynamic = json.loads((entry.folder / "answer.json").read_text())
    return reason, bool(dynamic)


class _ExportShape:
    """The part of a profile that exporting reads."""

    def __init__(self, inputs: Structure, outputs: Structure) -> None:
        self.inputs, self.outputs = inputs, outputs


def _facts(workload: Workload, model: Any, hashes: dict[str, SplitHashes]) -> dict[str, Any]:
    return {
        "model_digest": _model_digest(model),
        "data_digests": {name: found.digest for name, found in hashes.items()},
        "metric_digest": digest([source_of(workload.metric), source_of(workload.collate), source_of(workload.loss)]),
    }


def _model_digest(model: Any) -> str:
    """Hash weights, architecture and the source of every class that is not torch's own."""
    import tempfile

    classes = {type(layer) for layer in model.modules() if not type(layer).__module__.startswith("torch.")}
    sources = sorted(source_of(class_) for class_ in classes)
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, layer_sizes(model), {}, Path(folder))
        weights = hashlib.sha256((Path(folder) / "weights.safetensors").read_bytes()).hexdigest()
    return digest([weights, repr(model), sources])


def source_of(item: Callable[..., Any] | type | None) -> str:
    """Return the source of a function or class, or its name where the source cannot be had."""
    if item is None:
        return ""
    try:
        return inspect.getsource(item)
    except (OSError, TypeError):
        return f"{getattr(item, '__module__', '')}.{getattr(item, '__qualname__', type(item).__qualname__)}"


def _layers(model: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for layer in model.modules():
        if next(layer.children(), None) is None:
            counts[type(layer).__name__] = counts.get(type(layer).__name__, 0) + 1
    return dict(sorted(counts.items()))


def _widths(model: Any) -> tuple[int, ...]:
    import torch

    found = []
    for layer in model.modules():
        if isinstance(layer, torch.nn.modules.conv._ConvNd):
            found.append(layer.out_channels)
        elif isinstance(layer, torch.nn.Linear):
            found.append(layer.out_features)
    return tuple(found[:-1])
