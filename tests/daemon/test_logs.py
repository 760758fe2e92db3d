"""A log is read as it was written, chunk by chunk, also while it grows, rotates or is removed."""

from __future__ import annotations

import os
import struct
import threading
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgd.daemon.logs import highest_job, remove_logs
from bgd.logs.files import MAX_CHUNK, MAX_MARKS, LogReader
from bgd.wire.launching import log_name


@pytest.fixture
def log(tmp_path):
    found = LogReader(str(tmp_path), 1234, 2)
    found.path.parent.mkdir()
    return found


def marks_path(file: Path) -> Path:
    return file.with_name(f"{file.name}.times")


def write_marks(file: Path, *marks: tuple[int, float]) -> None:
    packed = [struct.pack(">QQ", offset, round(at * 1e6)) for offset, at in marks]
    marks_path(file).write_bytes(b"".join(packed))


def segment_path(log: LogReader, offset: int) -> Path:
    return log.path.with_name(f"{log.path.name}.{offset}")


def read_all(log: LogReader, limit: int = MAX_CHUNK) -> list[tuple[int, bytes]]:
    """Read like a follower, chunk by chunk, until there is no more."""
    offset, chunks = 0, []
    while (chunk := log.read(offset, limit)).data:
        assert chunk.left_out == chunk.offset - offset
        chunks.append((chunk.offset, chunk.data))
        offset = chunk.offset + len(chunk.data)
    return chunks


def test_log_is_read_where_the_launcher_writes_it(log, tmp_path):
    assert log.path == tmp_path / log_name(1234, 2)


def test_missing_log_reads_as_empty(tmp_path):
    log = LogReader(str(tmp_path / "nowhere"), 1, 1)

    assert log.read(0, 100).data == b""
    assert log.size() == 0
    assert log.tail_offset(10) == 0


def test_reading_on_from_the_end_sees_what_was_written_since(log):
    log.path.write_bytes(b"one\n")
    assert log.read(4, 100).data == b""

    with log.path.open("ab") as file:
        file.write(b"two\n")

    assert log.read(4, 100).data == b"two\n"


def test_chunk_is_bounded_whatever_is_asked_for(log):
    log.path.write_bytes(b"x" * (MAX_CHUNK + 5))

    assert len(log.read(0, 1 << 30).data) == MAX_CHUNK
    assert log.read(0, 3).data == b"xxx"


def test_bytes_of_the_gap_are_counted_as_left_out(log):
    log.path.write_bytes(b"head")
    segment_path(log, 104).write_bytes(b"tail")

    chunk = log.read(4, 100)

    assert (chunk.offset, chunk.data, chunk.left_out) == (104, b"tail", 100)
    assert log.size() == 108


def test_other_logs_and_other_files_are_not_segments(log):
    log.path.write_bytes(b"head")
    log.path.with_name(f"{log.path.name}.notes").write_bytes(b"not output")
    LogReader(str(log.path.parent.parent), 1234, 22).path.write_bytes(b"another attempt")

    assert read_all(log) == [(0, b"head")]


def test_segment_removed_while_reading_is_a_gap(log, monkeypatch):
    log.path.write_bytes(b"head")
    segment_path(log, 4).write_bytes(b"old")
    list_files = log._files

    def list_then_rotate():
        listed = list_files()
        if segment_path(log, 4).exists():  # the launcher goes on between listing and reading
            segment_path(log, 4).unlink()
            segment_path(log, 7).write_bytes(b"new")
        return listed

    monkeypatch.setattr(log, "_files", list_then_rotate)

    chunk = log.read(4, 100)

    assert (chunk.offset, chunk.data, chunk.left_out) == (7, b"new", 3)


def test_head_that_grows_before_the_first_segment_appears_loses_nothing(log, monkeypatch):
    log.path.write_bytes(b"he")
    list_files = log._files

    def grow_then_list():
        log.path.write_bytes(b"head")
        segment_path(log, 4).write_bytes(b"tail")
        return list_files()

    monkeypatch.setattr(log, "_files", grow_then_list)

    chunk = log.read(2, 100)

    assert (chunk.offset, chunk.data, chunk.left_out) == (2, b"ad", 0)


def test_follower_beside_a_rotating_writer_sees_every_byte_in_its_place(log):
    size, kept = 1000, 2
    output = b"".join(b"%015d\n" % number for number in range(0, 400 * size, 16))

    def write():
        log.path.write_bytes(output[:size])
        for start in range(size, len(output), size):
            segment_path(log, start).write_bytes(output[start : start + size])
            segment_path(log, start - kept * size).unlink(missing_ok=True)

    writer = threading.Thread(target=write)
    writer.start()
    offset = 0
    while True:
        is_complete = not writer.is_alive()
        chunk = log.read(offset, 777)
        if chunk.data:
            assert chunk.data == output[chunk.offset : chunk.offset + len(chunk.data)]
            assert chunk.left_out == chunk.offset - offset
            offset = chunk.offset + len(chunk.data)
        elif is_complete:
            break
    writer.join()
    assert offset == len(output)


def test_link_in_place_of_a_log_is_not_followed(log, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    log.path.symlink_to(tmp_path / "secret")

    with pytest.raises(OSError, match="symbolic links"):
        log.read(0, 100)


# --- times -----------------------------------------------------------------------------------------------


def test_each_byte_has_the_time_of_the_last_mark_before_it(log):
    log.path.write_bytes(b"aaabbbccc")
    write_marks(log.path, (0, 100.0), (3, 200.5), (6, 300.000001))

    assert log.read(0, 100).times == [(0, 100.0), (3, 200.5), (6, 300.000001)]
    assert log.read(4, 100).times == [(0, 200.5), (2, 300.000001)]
    assert log.read(3, 3).times == [(0, 200.5)]


def test_output_since_a_time_begins_at_its_first_mark_in_head_or_segments(log):
    log.path.write_bytes(b"abcdef")
    write_marks(log.path, (0, 100.0), (3, 200.5))
    assert [log.offset_since(at) for at in (50.0, 100.0, 100.1, 200.5, 201.0)] == [0, 0, 3, 3, 6]
    segment_path(log, 104).write_bytes(b"uvwxyz")
    write_marks(segment_path(log, 104), (104, 300.0), (107, 400.0))

    assert [log.offset_since(at) for at in (150.0, 250.0, 350.0, 401.0)] == [3, 104, 107, 110]
    offsets = [0, 2, 3, 5, 104, 108]
    assert list(log.times_of(offsets, has_parts=True)) == [100.0, 100.0, 200.5, 200.5, 300.0, 400.0]


def test_times_are_found_beyond_the_marks_that_are_read_at_once(log):
    count = 2 * MAX_MARKS + 10
    write_marks(log.path, *((2 + 2 * number, 100.0 + number) for number in range(count)))

    times = list(log.times_of(range(2 * count), has_parts=False))

    assert times == [None, None, *(100.0 + number // 2 for number in range(2 * count - 2))]


def test_segment_has_its_own_marks(log):
    log.path.write_bytes(b"head")
    segment_path(log, 104).write_bytes(b"aaabbb")
    write_marks(log.path, (0, 100.0))
    write_marks(segment_path(log, 104), (104, 200.0), (107, 300.0))

    assert log.read(4, 100).times == [(0, 200.0), (3, 300.0)]
    assert log.read(105, 100).times == [(0, 200.0), (2, 300.0)]


def test_bytes_before_the_first_mark_have_no_time(log):
    log.path.write_bytes(b"aaabbb")
    write_marks(log.path, (3, 200.0))

    assert log.read(0, 100).times == [(3, 200.0)]


def test_half_written_mark_is_not_read(log):
    log.path.write_bytes(b"aaabbb")
    write_marks(log.path, (0, 100.0), (3, 200.0))
    os.truncate(marks_path(log.path), 16 + 7)

    assert log.read(0, 100).times == [(0, 100.0)]


def test_chunk_ends_where_its_marks_become_too_many(log):
    log.path.write_bytes(b"x" * 2 * MAX_MARKS)
    write_marks(log.path, *((offset, 1000.0 + offset) for offset in range(2 * MAX_MARKS)))

    times = [
        (offset + start, at)
        for offset, data in read_all(log)
        for start, at in log.read(offset, len(data)).times
    ]

    assert times == [(offset, 1000.0 + offset) for offset in range(2 * MAX_MARKS)]


# --- tail ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "lines", "tail"),
    [
        (b"one\ntwo\nthree\n", 1, b"three\n"),
        (b"one\ntwo\nthree\n", 2, b"two\nthree\n"),
        (b"one\ntwo\nthree\n", 3, b"one\ntwo\nthree\n"),
        (b"one\ntwo\nthree\n", 99, b"one\ntwo\nthree\n"),
        (b"one\ntwo\nthree\n", 0, b""),
        (b"one\ntwo", 1, b"two"),
        (b"\n\n\n", 2, b"\n\n"),
        (b"one\n\n", 1, b"\n"),
        (b"", 5, b""),
    ],
)
def test_tail_is_the_last_lines(log, output, lines, tail):
    log.path.write_bytes(output)

    assert output[log.tail_offset(lines) :] == tail


def test_tail_reaches_over_the_gap_into_the_head(log):
    log.path.write_bytes(b"one\ntwo\n")
    segment_path(log, 108).write_bytes(b"last\n")

    assert log.tail_offset(1) == 108
    assert log.tail_offset(2) == 4


def test_tail_of_very_long_lines_is_whole_lines(log):
    size = 70_000_000
    with log.path.open("wb") as file:  # a hole takes no disk space
        file.write(b"one\n")
        file.truncate(4 + size)
        file.seek(4 + size)
        file.write(b"\nlast\n")

    assert log.tail_offset(1) == 5 + size
    assert log.tail_offset(2) == 4
    assert log.tail_offset(3) == 0


def test_removed_log_leaves_no_file(log):
    log.path.write_bytes(b"head")
    segment_path(log, 4).write_bytes(b"tail")
    write_marks(log.path, (0, 1.0))
    write_marks(segment_path(log, 4), (4, 2.0))

    other = log.path.with_name("123.4.log")
    other.write_bytes(b"another job's")

    remove_logs(str(log.path.parents[1]), {1234})
    remove_logs(str(log.path.parents[1]), {1234, 1_000_000})

    assert list(log.path.parent.iterdir()) == [other]


# --- against a model -------------------------------------------------------------------------------------

OUTPUTS = st.lists(st.sampled_from([b"\n", b"a", b"bc\n", b"\n\n", b"longer\n"]), max_size=30).map(b"".join)


@given(head=OUTPUTS, gap=st.integers(0, 50), segments=st.lists(OUTPUTS, max_size=2), data=st.data())
def test_log_reads_like_the_bytes_that_were_kept(head, gap, segments, data):
    kept = dict(enumerate(head))
    with TemporaryDirectory() as folder:
        log = LogReader(folder, 7, 1)
        log.path.parent.mkdir()
        log.path.write_bytes(head)
        start = len(head) + gap
        for segment in segments:
            segment_path(log, start).write_bytes(segment)
            kept |= {start + index: byte for index, byte in enumerate(segment)}
            start += len(segment)
        limit = data.draw(st.integers(1, 20))

        chunks = read_all(log, limit)

        assert {offset + index: byte for offset, chunk in chunks for index, byte in enumerate(chunk)} == kept
        assert all(len(chunk) <= limit for _, chunk in chunks)
        assert all(before + len(chunk) <= after for (before, chunk), (after, _) in pairwise(chunks))

        lines = data.draw(st.integers(0, 8))
        text = bytes(byte for _, byte in sorted(kept.items()))
        begin = log.tail_offset(lines)
        assert begin in kept or begin == log.size()
        tail = bytes(byte for offset, byte in sorted(kept.items()) if offset >= begin)
        assert tail == b"".join(text.splitlines(keepends=True)[-lines:] if lines else [])


def test_files_and_folders_that_are_not_logs_have_no_job_ids(tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0/17.1.log").touch()
    (tmp_path / "5").touch()

    assert highest_job(str(tmp_path)) == 17
