"""The table of training that ends in the network: what an arm closes of the gap that rows alone leave."""

from studies import finetuned


def test_shares_are_of_the_gap_that_rows_alone_leave() -> None:
    run = {"fvu": 0.1, "clean": 1.0, "recovered": 0.9, "seconds": 7.0}
    runs = {"sae/kl30/0": run | {"spliced": 1.15}, "sae/plain/0": run | {"spliced": 1.2}}
    assert "KL, weight .3 | 0.100 | 0.150 | 25% | 0.900 | 7 |" in finetuned._table({"runs": runs})
    del runs["sae/plain/0"]
    assert "KL, weight .3 | 0.100 | 0.150 |  | 0.900 | 7 |" in finetuned._table({"runs": runs})
