"""fit: train one method on one source of rows."""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from monosem.anchors.directions import Anchors
from monosem.base.errors import CheckpointError, DataError, RefusedError, check
from monosem.base.group import ALONE, Group
from monosem.base.seeds import torch_generator
from monosem.base.spec import digest, to_plain
from monosem.core.activations import Context
from monosem.core.constraints import Constraint
from monosem.core.model import SDL
from monosem.core.pairs import LocatedSource, Rows, Source, check_finite
from monosem.core.shards import edges
from monosem.core.units import Units
from monosem.kernels.ops import kept_memory
from monosem.losses.control import settle
from monosem.losses.fidelity import distance
from monosem.losses.objective import Loss, State, Step
from monosem.losses.resample import Resample
from monosem.methods import Method
from monosem.methods import method as read_method
from monosem.train.config import FitConfig
from monosem.train.folder import RunFolder
from monosem.train.progress import progress_bar
from monosem.train.result import Result, about_run
from monosem.train.start import Start
from monosem.train.state import Run
from monosem.train.update import Update, rate

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
from jaxtyping import Int

from monosem.base.seeds import key


class Order:
    """Which rows a step sees: a pure function of the step, so that a run has no data cursor to save.

    A fixed set of rows is visited by one keyed permutation per epoch, without gaps between epochs; with `pairs` the
    rows 2 i and 2 i + 1 stay together, and an odd last row is left out. A stream is read forward from an offset that
    the seed decides.
    """

    def __init__(self, rows: int | None, batch_size: int, seed: int, pairs: bool = False) -> None:
        self.rows, self.batch_size, self.seed, self.pairs = rows, batch_size, seed, pairs
        if pairs and rows is not None:
            self.rows = rows - rows % 2
        self._epoch, self._permutation = -1, torch.empty(0, dtype=torch.int64)

    def _of_epoch(self, epoch: int) -> Int[Tensor, " rows"]:
        if epoch != self._epoch:
            assert self.rows is not None
            generator = torch_generator(self.seed, "order", epoch)
            order = torch.randperm(self.rows // (1 + self.pairs), generator=generator)
            self._permutation = torch.stack([2 * order, 2 * order + 1], 1).flatten() if self.pairs else order
            self._epoch = epoch
        return self._permutation

    def index(self, step: int) -> Int[Tensor, " batch"]:
        """The rows of one step."""
        return self.span(step * self.batch_size, (step + 1) * self.batch_size)

    def span(self, start: int, stop: int) -> Int[Tensor, " rows"]:
        """The rows from one place of the order to another."""
        if self.rows is None:
            offset = key(self.seed, "stream") % 2**20 * 2**36
            return torch.arange(offset + start, offset + stop)
        parts = []
        while start < stop:
            epoch, begin = divmod(start, self.rows)
            take = min(stop - start, self.rows - begin)
            parts.append(self._of_epoch(epoch)[begin : begin + take])
            start += take
        return parts[0] if len(parts) == 1 else torch.cat(parts)


Callback = Callable[[Run, dict[str, float]], None]
CALIBRATION_BATCHES, CALIBRATION_ROWS = 64, 16384
"""How many batches, and at most how many rows, what inference reads is calibrated on."""
L0_ROWS, UNSEEN_ROWS = 2**18, 2**14
"""At most how many rows active latents are counted on, and how many that no step has drawn are enough for that."""


def parts_of(
    method: Method,
    source: Source,
    n_q: int,
    config: FitConfig,
    anchors: Anchors | None,
    start: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What makes a run the same: method, data, sizes, anchors, and the configuration but for its length and logging;
    and the numbers that it starts from, where they are given."""
    plain = {k: v for k, v in to_plain(config).items() if k not in ("steps", "log_every", "checkpoint_every")}
    directions = None if anchors is None else [anchors.kind, digest(anchors.p.tolist()), digest(anchors.r.tolist())]
    data = [source.digest, source.p_widths, source.r_widths]
    parts = {"method": method, "data": data, "n_q": n_q, "config": plain, "anchors": directions}
    parts |= {} if start is None else {"start": start["sha256"]}
    return {name: to_plain(part) for name, part in parts.items()}


def train_step(run: Run, update: Update, x_p: Tensor, x_r: Tensor, rows: Rows | None = None) -> tuple[Step, Loss]:
    """One step, in order: forward, backward, project, clip, optimise, renormalise, count the dead.

    Returns what the step saw (before the weights moved) and its loss.
    """
    model, objective = run.model, run.objective
    context = Context(True, run.step, update.config.steps)
    dead = run.tracker.dead
    run.optimiser.zero_grad(set_to_none=True)
    with update.collecting() as ledger:
        out = model(x_p, objective.requests(model.whole, context), dead, context)
        step = Step(model, x_p, x_r, out, dead, context, rows)
        loss = objective(step, run.terms)
        torch.autograd.backward(loss.total)
    update.apply(ledger)
    with torch.no_grad():
        model.observe(out)
        model.activation.project(dict(model.act.items()))
        run.tracker.update(out.code)
    run.step += 1
    return step, loss


def _log_entry(run: Run, config: FitConfig, step: Step, loss: Loss) -> dict[str, float]:
    """What is logged of a step: the loss that was trained, part by part."""
    with torch.no_grad():
        fvu = float(distance(loss.error, step.x_r, "fvu", run.model.targets))
    return {
        "step": run.step,
        "loss": float(loss.total.detach()),
        **{f"loss/{name}": float(part) for name, part in loss.parts.items()},
        "fvu": fvu,
        "l0": _over_all(run, step.code.count()) / step.code.batch,
        "dead": float(run.model.group.gather(run.tracker.dead).float().mean()),
        "lr": rate(run, config, run.step - 1),
        **({"fell_back": float(run.model.fell_back)} if run.model.selection == "bf16" else {}),
    }


def _over_all(run: Run, count: int) -> int:
    """A count of latents, over the group."""
    group = run.model.group
    return count if group.size == 1 else int(group.total(torch.tensor(count, device=run.model.b_E.device)))


def check_loss(run: Run, config: FitConfig, loss: Loss) -> None:
    """Raises: DataError when the loss of a step is not finite; its rows were."""
    total = float(loss.total.detach())
    lower = f"the loss is {total} at step {run.step}; lower lr={config.lr} or set clip"
    check(math.isfinite(total), lower, DataError)


def rows_of(source: Source, index: Tensor, model: SDL | None = None) -> tuple[Tensor, Tensor]:
    """Rows by number, the one way by which they enter training; as a model has them: its columns, on its device.

    Raises: DataError unless all are finite.
    """
    x_p, x_r = source.take(index)
    check_finite("x_p", x_p, index)
    if x_r is not x_p:
        check_finite("x_r", x_r, index)
    if model is None:
        return x_p, x_r
    own = x_r if len(model.columns) == x_r.shape[1] else x_r[:, model.columns.start : model.columns.stop]
    return x_p.to(model.b_E.device), own.to(model.b_E.device)


def resample(
    run: Run, plan: Resample | None, constraints: Sequence[Constraint], config: FitConfig, source: Source
) -> None:
    """Draw dead latents anew where the plan does so at this step."""
    if plan is None or not plan.due(run.step, config.steps):
        return
    generator = torch_generator(config.seed, "resample", run.step)
    order = Order(source.rows, plan.rows if source.rows is None else min(plan.rows, source.rows), config.seed)
    x_p, x_r = rows_of(source, order.index(run.step // plan.every), run.model)
    dead = run.tracker.dead
    for constraint in constraints:
        dead[constraint.fixed_latents(run.model)] = False
    plan.apply(run.model, x_p, x_r, dead, generator)
    for constraint in constraints:
        constraint.after_step(run.model)
    run.forget(dead)
    run.tracker.since[dead] = 0


def calibrate(run: Run, config: FitConfig, source: Source) -> dict[str, Any]:
    """Set what inference reads by the finished weights, and the number of active latents that the method asks for.

    The former on rows of the training: a sample of a fixed set, the last of a stream; CALIBRATION_BATCHES batches and
    CALIBRATION_ROWS rows at most. The latter on rows that training never saw, wherever there are any (`_unseen`).
    Returns what a record says of the latter; {} where no number is asked for.
    """
    seen, batch = config.steps * config.batch_size, config.batch_size
    number = max(min(CALIBRATION_BATCHES * batch, CALIBRATION_ROWS, source.rows or seen) // batch, 1) * batch
    number = min(number, source.rows or number)
    index = Order(source.rows, number, config.seed).index(0 if source.rows else max(seen // number - 1, 0))

    def batches(source: Source, index: Tensor) -> Iterator[Tensor]:
        return (rows_of(source, part, run.model)[0] for part in torch.split(index, batch))

    run.model.calibrate(batches(source, index))
    asked = run.objective.asked_l0
    if asked is None:
        return {}
    others, index, which = _unseen(source, seen, Order(source.rows, 1, config.seed, run.objective.pairs))
    settle(run.model, asked, partial(batches, others, index))
    return {"settled": {"l0": asked, "rows": len(index), "of": which}}


def _unseen(source: Source, seen: int, order: Order) -> tuple[Source, Tensor, str]:
    """(source, rows, which they are) to count active latents on, where the steps have drawn `seen` rows in an order.

    A run on a fixed set of rows fits them: on others more latents are active. So these are rows beside those of the
    training, or rows that no step has drawn, or else all. Of a law, eight rows for each that was drawn are enough.
    """
    fresh: Source | None = getattr(source, "fresh", None)
    if fresh is not None:
        return fresh, torch.arange(min(L0_ROWS, fresh.rows or 8 * seen)), "rows beside those of the training"
    rest = seen if order.rows is None else order.rows - seen
    if order.rows is None or rest >= UNSEEN_ROWS:
        return source, order.span(seen, seen + min(L0_ROWS, rest)), "rows that no step drew"
    return source, order.span(0, min(L0_ROWS, order.rows)), "rows of the training"


def _device(config: FitConfig, group: Group) -> torch.device:
    """The run's device; of several GPUs this process's. Raises: ArgumentError for one that torch does not see."""
    device = torch.device(config.device)
    if group.size > 1 and device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    present = device.type != "cuda" or torch.cuda.is_available()
    check(present, f"device={config.device!r}, but torch {torch.__version__} sees no GPU; use 'cpu'")
    return device


def start_run(
    method: Method,
    source: Source,
    n_q: int,
    config: FitConfig,
    anchors: Anchors | None = None,
    group: Group = ALONE,
    start: Start | None = None,
) -> Run:
    """A run at step 0, on its device: the model as it starts, its objective and its optimiser. Raises: as `fit`.

    Every process of a group makes the whole model, and keeps its own latents.
    """
    check(source.rows is None or source.rows > 0, "the source has no rows", DataError)
    sample_size = config.sample_rows if source.rows is None else min(config.sample_rows, source.rows)
    sample = rows_of(source, Order(source.rows, sample_size, config.seed).index(0))
    model, objective = method.build(n_q, source.p_widths, source.r_widths, sample, config.seed, anchors)
    fixed = [name for name in ("encoder", "decoder") if not all(p.requires_grad for p in getattr(model, name).weights)]
    whole = source.rows is not None and source.rows > 1
    text = "contrast compares rows that follow each other, which a stream mixes; train on a file, a store or a tensor"
    check(whole or not objective.pairs, text, RefusedError)
    resampled = method.resample is not None
    check(not (resampled and fixed), f"resampling draws {fixed} anew, but they are fixed; drop one", RefusedError)
    if start is not None:
        constraints = method.constraints_of(model.layout, anchors)
        start.put_into(model, constraints, getattr(source, "units", None))
    model.selection = config.selection
    terms: dict[str, State] | None = None
    if group.size > 1:
        from monosem.train.mesh import share

        constraints = method.constraints_of(model.layout, anchors)
        objective, terms = share(model, objective, constraints, group, _device(config, group))
    model.to(_device(config, group)).train()
    rule = method.optimiser
    return Run.start(model, objective, config.lr, config.betas, config.eps, config.window, terms=terms, rule=rule)


def _constraints(method: Method, run: Run, source: Source, n_q: int, anchors: Anchors | None) -> tuple[Constraint, ...]:
    """What holds this process's latents."""
    group, layout = run.model.group, method.pairing.layout(n_q, source.p_widths, source.r_widths)
    first, last = edges(n_q, group.size)[group.rank :][:2]
    return tuple(constraint.of_latents(first, last) for constraint in method.constraints_of(layout, anchors))


def _batches(run: Run, source: Source, config: FitConfig) -> Iterator[tuple[Tensor, Tensor, Rows]]:
    """The rows of each step that is left, on the model's device, and where they come from."""
    order = Order(source.rows, config.batch_size, config.seed, run.objective.pairs)
    while run.step < config.steps:
        index = order.index(run.step)
        yield (
            *rows_of(source, index, run.model),
            source.where(index) if isinstance(source, LocatedSource) else Rows(index),
        )


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Torch's number of threads inside; the host's own again afterwards."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if number is not None:
            torch.set_num_threads(before)


@contextmanager
def _group(mesh: "str | DeviceMesh | None", device: str) -> Iterator[Group]:
    """The processes that share the latents; torch.distributed is imported for several only."""
    if mesh is None:
        yield ALONE
        return
    from monosem.train.mesh import open_mesh

    with open_mesh(mesh, device) as group:
        yield group


def _finished(model: SDL, source: Source) -> SDL:
    """A trained model in evaluation mode, the units of its source folded in."""
    units: Units | None = getattr(source, "units", None)
    return (model if units is None else units.fold(model)).eval()


def fit(
    method: Method | str,
    source: Source,
    n_q: int,
    config: FitConfig | None = None,
    anchors: Anchors | None = None,
    *,
    out: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
    allow_other_machine: bool = False,
    mesh: "str | DeviceMesh | None" = None,
    start: SDL | Start | None = None,
) -> Result:
    """Train a method on the rows of a source.

    With `out`, a folder, the run writes log.jsonl, checkpoint.safetensors and, at the end, the model; called again
    after an interruption it goes on from the last checkpoint and ends with the same bits (same machine type,
    threads and versions). A finished run goes on where more `steps` are asked for, on the schedule of that length.
    `callbacks` are called with the run and the entry at every logged step, to which they may add numbers; the model is
    then in evaluation mode.
    Where the source gives rows in `units` of its own, these are folded into the finished model, which takes and gives
    raw rows then; the log, callbacks and checkpoint stay in the units of training.
    `start`: a trained model, whose function on raw rows the run begins with in place of `method.init`; sizes, pairing
    and kind of activation are the method's. A run that is called again takes the same one.
    `mesh`: "latents=P" shares the latents among P processes that torchrun started, or a DeviceMesh with that
    dimension does; the cells selected are those of one process. Every process calls `fit` alike and sees all rows and
    all callbacks; its result's model has its own latents (`model.group`), and what that decodes is of all. "targets=P"
    shares the columns of x_r as well, of which a model then decodes its own: for cross-layer transcoders.

    Raises: RefusedError for a combination that the mathematics forbids; DataError for rows, or a loss, that are not
        finite; CheckpointError when `out` holds another run, or more steps of this one.
    Example:
        >>> from monosem.core.pairs import TensorSource
        >>> rows = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
        >>> fit("topk(k=2)", TensorSource(rows), 16, FitConfig(steps=3, batch_size=8)).model.W_D.shape
        torch.Size([8, 16])
    """
    method, config = read_method(method) if isinstance(method, str) else method, config or FitConfig()
    start = Start(start) if isinstance(start, SDL) else start
    started, warm = time.perf_counter(), None if start is None else start.about()
    with _threads(config.threads), kept_memory(), _group(mesh, config.device) as group:
        run = start_run(method, source, n_q, config, anchors, group, start)
        if out is not None:
            run.parts = parts_of(method, source, n_q, config, anchors, warm)
            run.identity = digest(run.parts)
        constraints = _constraints(method, run, source, n_q, anchors)
        update = Update(run, constraints, config)
        with (
            RunFolder(out, run, allow_other_machine) as folder,
            progress_bar(config.steps, run.step, method.spec, progress) as advance,
        ):
            longer = (
                f"{out} holds {run.step} steps of this run, more than steps={config.steps}; ask for at least as many"
            )
            check(run.step <= config.steps, longer, CheckpointError)
            for x_p, x_r, rows in _batches(run, source, config):
                step, loss = train_step(run, update, x_p, x_r, rows)
                check_loss(run, config, loss)
                resample(run, method.resample, constraints, config, source)
                if run.step % config.log_every == 0 or run.step in (1, config.steps):
                    entry = _log_entry(run, config, step, loss)
                    with run.finished(constraints):
                        for callback in callbacks:
                            callback(run, entry)
                    folder.log(entry)
                    advance(run.step, entry, config.batch_size)
                folder.save(run, config)
            run.finish(constraints)
            settled = calibrate(run, config, source)
            model = _finished(run.model, source)
            about = about_run(method, source, n_q, config, anchors, run.identity, warm) | settled
            folder.finish(model, about)
    return Result(model, folder.entries, time.perf_counter() - started, run.identity, about)
