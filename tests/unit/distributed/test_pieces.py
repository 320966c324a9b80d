"""Parts of tensors that several processes wrote are read in any other cut."""

from __future__ import annotations

import pytest
import torch

from framework.distributed.pieces import Piece, Pieces, capture_pieces, piece_of

WHOLE = torch.arange(24.0).reshape(6, 4)
CUTS = ((0, 7), (7, 8), (8, 24))


def written(folder, cuts=CUTS):
    for rank, (start, stop) in enumerate(cuts):
        part = Piece(values=WHOLE.flatten()[start:stop], start=start, shape=tuple(WHOLE.shape))
        details = {"numbers": {"n": 3}} if rank == 0 else {}
        capture_pieces(rank, {"weights/a": part}, details)(folder)
    return Pieces(folder)


@pytest.mark.parametrize(("start", "stop"), [(0, 24), (0, 7), (5, 9), (7, 8), (20, 24), (3, 3)])
def test_any_range_is_put_together(tmp_path, start, stop):
    assert torch.equal(
        written(tmp_path).read("weights/a", start, stop), WHOLE.flatten()[start:stop]
    )


def test_the_whole_tensor_and_what_the_main_process_wrote_beside_it(tmp_path):
    pieces = written(tmp_path)
    assert torch.equal(pieces.whole("weights/a"), WHOLE)
    assert pieces.shapes == {"weights/a": (6, 4)}
    assert pieces.details["numbers"] == {"n": 3}


def test_numbers_that_nobody_wrote_are_missed(tmp_path):
    pieces = written(tmp_path, cuts=((0, 7), (8, 24)))
    with pytest.raises(AssertionError):
        pieces.whole("weights/a")
    assert torch.equal(pieces.read("weights/a", 8, 24), WHOLE.flatten()[8:])


def test_what_every_process_holds_is_written_by_the_first(tmp_path):
    piece = piece_of(WHOLE, rank=0)
    assert piece is not None and (piece.start, piece.shape) == (0, (6, 4))
    assert piece_of(WHOLE, rank=1) is None
