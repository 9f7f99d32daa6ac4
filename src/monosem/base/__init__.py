"""What every part stands on: errors, files written whole, registries, seeds, specifications, sparse codes."""

from typing import TYPE_CHECKING

from monosem.base.face import show

if TYPE_CHECKING:
    from monosem.base.blocks import Block as Block
    from monosem.base.errors import AbsentError as AbsentError
    from monosem.base.errors import ArgumentError as ArgumentError
    from monosem.base.errors import CheckpointError as CheckpointError
    from monosem.base.errors import DataError as DataError
    from monosem.base.errors import GeneratorError as GeneratorError
    from monosem.base.errors import MonosemError as MonosemError
    from monosem.base.errors import RefusedError as RefusedError
    from monosem.base.errors import ShapeError as ShapeError
    from monosem.base.errors import UnknownNameError as UnknownNameError
    from monosem.base.errors import check as check
    from monosem.base.files import claim as claim
    from monosem.base.files import read_json as read_json
    from monosem.base.files import write_atomic as write_atomic
    from monosem.base.files import write_json as write_json
    from monosem.base.group import ALONE as ALONE
    from monosem.base.group import Group as Group
    from monosem.base.literature import Citation as Citation
    from monosem.base.machine import cache_folder as cache_folder
    from monosem.base.machine import machine as machine
    from monosem.base.registry import Registry as Registry
    from monosem.base.schedule import Ramp as Ramp
    from monosem.base.schedule import WarmupDecay as WarmupDecay
    from monosem.base.seeds import philox as philox
    from monosem.base.seeds import torch_generator as torch_generator
    from monosem.base.selection import Above as Above
    from monosem.base.selection import Every as Every
    from monosem.base.selection import TopK as TopK
    from monosem.base.sparse import Code as Code
    from monosem.base.sparse import DenseCode as DenseCode
    from monosem.base.sparse import Positions as Positions
    from monosem.base.sparse import SparseCode as SparseCode
    from monosem.base.spec import canonical as canonical
    from monosem.base.spec import digest as digest
    from monosem.base.spec import format_call as format_call
    from monosem.base.spec import parse_call as parse_call
    from monosem.base.spec import to_plain as to_plain

show(__name__, guards=False)
