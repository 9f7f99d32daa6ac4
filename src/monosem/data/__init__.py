"""Rows from anywhere through one door: files, stores of a network's activations, tokens and texts.

`open_rows` opens what training, anchors and the page of latents read.
"""

from typing import TYPE_CHECKING

from monosem.base.face import show

if TYPE_CHECKING:
    from monosem.core.pairs import Rows as Rows
    from monosem.core.pairs import Source as Source
    from monosem.core.pairs import TensorSource as TensorSource
    from monosem.data.batches import Batch as Batch
    from monosem.data.batches import TokenFilter as TokenFilter
    from monosem.data.batches import masked as masked
    from monosem.data.class_means import class_anchors as class_anchors
    from monosem.data.mixed import mixed as mixed
    from monosem.data.source import FileSource as FileSource
    from monosem.data.source import StoreSource as StoreSource
    from monosem.data.source import open_rows as open_rows
    from monosem.data.store import Sharded as Sharded
    from monosem.data.store import Store as Store
    from monosem.data.store import is_store as is_store
    from monosem.data.store import open_store as open_store
    from monosem.data.table import Labels as Labels
    from monosem.data.table import Table as Table
    from monosem.data.table import read_array as read_array
    from monosem.data.table import read_labels as read_labels
    from monosem.data.table import read_table as read_table
    from monosem.data.texts import Document as Document
    from monosem.data.texts import pieces as pieces
    from monosem.data.texts import read_documents as read_documents
    from monosem.data.texts import text_batches as text_batches
    from monosem.data.trained import anchors_of as anchors_of
    from monosem.data.trained import trained_on as trained_on

show(__name__)
