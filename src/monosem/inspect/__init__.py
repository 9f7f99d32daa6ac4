"""What does a latent fire on? One self-contained page: rates, strongest contexts, histograms, classes, neighbours."""

from typing import TYPE_CHECKING

from monosem.base.face import show

if TYPE_CHECKING:
    from monosem.inspect.collect import Inspection as Inspection
    from monosem.inspect.collect import collect as collect
    from monosem.inspect.explain import Answers as Answers
    from monosem.inspect.explain import command_judge as command_judge
    from monosem.inspect.explain import explain as explain
    from monosem.inspect.explain import load_labels as load_labels
    from monosem.inspect.explain import save_labels as save_labels
    from monosem.inspect.options import Options as Options
    from monosem.inspect.page import inspect_page as inspect_page
    from monosem.inspect.page import write_inspect_page as write_inspect_page
    from monosem.inspect.rows import Rows as Rows
    from monosem.inspect.rows import read_images as read_images
    from monosem.inspect.rows import read_texts as read_texts
    from monosem.inspect.rows import rows_from as rows_from

show(__name__)
