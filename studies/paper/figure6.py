"""Figure 6: recovery against tau, the curves that every run of table 1 keeps."""

from studies.engine.figures import tau_figure
from studies.engine.study import Study
from studies.engine.words import fits, statements
from studies.paper import table1, table2


def _about() -> str:
    anchored = sorted({share for (_, arm), (share, _) in table2.PRINTED.items() if arm == "anchored"})
    classes = {n: sum(fits(share, n) for share in anchored) for n in (970, 1000)}
    return (
        "M_GT(τ) of table 1's runs, over the scored features. A dictionary of true directions would lie at 1 up to "
        "τ = 1; a curve that falls early is a dictionary of mixtures, one that falls late is nearly right.\n\n"
        "Table 2 asks the same of real embeddings and stands in [classes](../real/classes.md). Two of its anchored "
        f"methods agree to the digit ({anchored[0]} %) and the third is near ({anchored[1]} %), as they would if the "
        f"anchors themselves were counted; of these two numbers {classes[970]} can be a count out of 970 classes and "
        f"{classes[1000]} out of 1000."
    )


STUDY = Study(
    "figure6", "Figure 6: recovery against tau", table1.runs, about=_about, says=statements, figure=tau_figure
)
