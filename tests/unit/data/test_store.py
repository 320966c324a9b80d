"""What is written to a store is read back, sample by sample."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from framework.core.batch import Encoded, Features
from framework.data.pack import alone
from framework.data.store import Store, StoreWriter

encoded = st.lists(st.tuples(st.integers(0, 2**31), st.booleans()), min_size=1, max_size=9).map(
    lambda pairs: Encoded(
        tokens=tuple(token for token, _ in pairs), trained=tuple(trained for _, trained in pairs)
    )
)
features = st.lists(encoded, min_size=1, max_size=3).map(
    lambda documents: Features(documents=tuple(documents))
)


@given(samples=st.lists(features, max_size=20))
def test_samples_come_back_as_they_were(tmp_path_factory, samples):
    folder = tmp_path_factory.mktemp("store")
    writer = StoreWriter(folder)
    for index, sample in enumerate(samples):
        writer.add(sample, dataset=0, row=index * 10, part=index % 2)
    units = [[index] for index in reversed(range(len(samples)))]
    backwards = alone(members=np.arange(len(samples))[::-1], ends=np.arange(1, len(samples) + 1))
    writer.write_units([backwards])
    writer.write_details({"datasets": [{"name": "train0"}]})
    store = Store(folder)
    assert store.num_samples == store.num_units == len(samples)
    assert [store.features(index) for index in range(len(samples))] == samples
    assert [store.unit(index).tolist() for index in range(len(units))] == units
    lengths = store.computed_lengths().tolist()
    assert [store.computed_length(index) for index in range(len(units))] == lengths
    assert store.num_tokens == sum(len(d.tokens) for one in samples for d in one.documents)
    ids = [f"train0:{index * 10}" + ("/1" if index % 2 else "") for index in range(len(samples))]
    assert [store.sample_id(index) for index in range(len(samples))] == ids
