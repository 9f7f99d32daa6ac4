"""Worlds whose every feature is known, and the scores of a dictionary against them.

Does training find the truth? A `World` draws sparse features along known directions; a task fixes a world, a pairing
and what is scored; `plan` and `run_jobs` train methods on it; `chance` and `oracle` say what a score is read against.
"""

from typing import TYPE_CHECKING

from monosem.base.face import show

if TYPE_CHECKING:
    from monosem.bench.absorption import Families as Families
    from monosem.bench.absorption import Family as Family
    from monosem.bench.absorption import Fired as Fired
    from monosem.bench.absorption import absorption as absorption
    from monosem.bench.absorption import best_latent as best_latent
    from monosem.bench.absorption import label_absorption as label_absorption
    from monosem.bench.anchor_sets import discovered_anchors as discovered_anchors
    from monosem.bench.code_truth import CodeTruth as CodeTruth
    from monosem.bench.code_truth import Matching as Matching
    from monosem.bench.code_truth import hedging as hedging
    from monosem.bench.code_truth import sparse_probe as sparse_probe
    from monosem.bench.code_truth import stability as stability
    from monosem.bench.code_truth import uniqueness as uniqueness
    from monosem.bench.defaults import PAPER_ROWS as PAPER_ROWS
    from monosem.bench.defaults import fit_config as fit_config
    from monosem.bench.defaults import recipe as recipe
    from monosem.bench.defaults import recipes as recipes
    from monosem.bench.fitted import fit_world as fit_world
    from monosem.bench.fitted import resemblance as resemblance
    from monosem.bench.folds import CODE_METRICS as CODE_METRICS
    from monosem.bench.folds import Coded as Coded
    from monosem.bench.folds import Fold as Fold
    from monosem.bench.folds import evaluate as evaluate
    from monosem.bench.foreign import export_rows as export_rows
    from monosem.bench.foreign import foreign_record as foreign_record
    from monosem.bench.latent_scaling import latent_scaling as latent_scaling
    from monosem.bench.laws import Hierarchy as Hierarchy
    from monosem.bench.laws import Zipf as Zipf
    from monosem.bench.laws_sizes import Composed as Composed
    from monosem.bench.metrics import DICTIONARY_METRICS as DICTIONARY_METRICS
    from monosem.bench.metrics import DUPLICATE_COSINE as DUPLICATE_COSINE
    from monosem.bench.metrics import SIMILARITIES as SIMILARITIES
    from monosem.bench.metrics import Comparison as Comparison
    from monosem.bench.metrics import flatten as flatten
    from monosem.bench.metrics import recall_precision as recall_precision
    from monosem.bench.metrics import recovery as recovery
    from monosem.bench.metrics import score as score
    from monosem.bench.packed import PACKED as PACKED
    from monosem.bench.packed import read_packed as read_packed
    from monosem.bench.packed import write_packed as write_packed
    from monosem.bench.pool import NO_CALLBACKS as NO_CALLBACKS
    from monosem.bench.pool import Event as Event
    from monosem.bench.pool import JobCallbacks as JobCallbacks
    from monosem.bench.pool import run_all as run_all
    from monosem.bench.real import RealRun as RealRun
    from monosem.bench.real import class_scores as class_scores
    from monosem.bench.real import code_scores as code_scores
    from monosem.bench.real import run_real as run_real
    from monosem.bench.records import SUFFIX as SUFFIX
    from monosem.bench.records import arm_key as arm_key
    from monosem.bench.records import environment as environment
    from monosem.bench.records import outdated as outdated
    from monosem.bench.records import pack_records as pack_records
    from monosem.bench.records import read_record as read_record
    from monosem.bench.records import read_records as read_records
    from monosem.bench.records import record_name as record_name
    from monosem.bench.records import results_digest as results_digest
    from monosem.bench.records import validate as validate
    from monosem.bench.records import write_record as write_record
    from monosem.bench.robust import RobustFVU as RobustFVU
    from monosem.bench.run import Job as Job
    from monosem.bench.run import job_head as job_head
    from monosem.bench.run import pairing_of as pairing_of
    from monosem.bench.run import plan as plan
    from monosem.bench.run import run_job as run_job
    from monosem.bench.run import run_jobs as run_jobs
    from monosem.bench.synth import SynthSource as SynthSource
    from monosem.bench.synth import SynthSpec as SynthSpec
    from monosem.bench.synth_scores import Scored as Scored
    from monosem.bench.synth_scores import synth_scores as synth_scores
    from monosem.bench.task_scores import EVAL_ROWS as EVAL_ROWS
    from monosem.bench.task_scores import anchors_alone as anchors_alone
    from monosem.bench.task_scores import chance as chance
    from monosem.bench.task_scores import evaluate_model as evaluate_model
    from monosem.bench.task_scores import oracle as oracle
    from monosem.bench.task_scores import random_rows as random_rows
    from monosem.bench.tasks import TASKS as TASKS
    from monosem.bench.tasks import WORLDS as WORLDS
    from monosem.bench.tasks import Task as Task
    from monosem.bench.tasks import TaskSource as TaskSource
    from monosem.bench.tasks import named_task as named_task
    from monosem.bench.tasks import task as task
    from monosem.bench.tune import CRITERIA as CRITERIA
    from monosem.bench.tune import Trial as Trial
    from monosem.bench.tune import tune as tune
    from monosem.bench.world import BLOCK as BLOCK
    from monosem.bench.world import Directions as Directions
    from monosem.bench.world import FeatureLaw as FeatureLaw
    from monosem.bench.world import Independent as Independent
    from monosem.bench.world import Truth as Truth
    from monosem.bench.world import World as World
    from monosem.bench.world import WorldSpec as WorldSpec
    from monosem.bench.world import feature_directions as feature_directions
    from monosem.bench.worlds import grid_text as grid_text
    from monosem.bench.worlds import world_spec as world_spec

show(__name__)
