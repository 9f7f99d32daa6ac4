"""What every law keeps: a row has the same bits however it is asked for."""

import torch
from hypothesis import strategies as st

from monosem.bench.world import World, WorldSpec


def assert_rows_agree(spec: WorldSpec, data: st.DataObject) -> None:
    """Rows of any index, up to 2499, are those that are asked for alone."""
    index = torch.tensor(data.draw(st.lists(st.integers(0, 2499), min_size=1, max_size=30)))
    taken = World(spec).take(index)
    for place, row in enumerate(index[:5].tolist()):
        alone = World(spec).rows(row, row + 1)
        assert torch.equal(taken.features.dense()[place], alone.features.dense()[0])
        assert torch.equal(taken.sources[0][place], alone.sources[0][0])
