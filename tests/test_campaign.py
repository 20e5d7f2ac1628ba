"""Campaigns on a machine whose true latencies are known: found, rejected, repeated, resumed."""

import json
import random
from collections import Counter
from typing import Any

import pytest

from lut.measuring.assemble import differences, entries_of, network_points, reference_us
from lut.measuring.campaign import Campaign
from lut.measuring.chunks import (
    BLOCKS,
    NETWORKS,
    Chunk,
    block_from_list,
    block_to_list,
    distinct,
    references_of,
    split,
    wide_references_of,
)
from lut.measuring.coverage import distinct_blocks
from lut.measuring.journal import JOURNAL, Journal
from lut.measuring.probes import difference_of
from lut.runtimes.session import Setting
from results.errors import RunError, TargetError, UserError
from supernet.blocks import Block, blocks_of
from supernet.cost import network_cost
from supernet.official import named_arch
from supernet.spaces import get_space
from tests.synthetic import START_US, Machine, true_us

SPACE = get_space("tiny")
REFERENCES = references_of(SPACE)
ALL = distinct([*distinct_blocks(SPACE), *(b for arch in REFERENCES for b in blocks_of(arch))])
SETTING = Setting("onnxruntime", "fp32")


@pytest.fixture
def campaign(tmp_path, monkeypatch):
    """A campaign on a synthetic machine; called again, it resumes the same journal."""

    def campaign(machine, passes=8):
        monkeypatch.setattr("lut.measuring.campaign.run_session", machine)
        monkeypatch.setattr("lut.measuring.campaign.time.sleep", lambda seconds: None)
        journal = Journal(tmp_path / JOURNAL)
        return Campaign(machine, SETTING, REFERENCES, journal, passes=passes)

    return campaign


def pool_us(block):
    height, width = block.out_size
    return true_us(
        Block("pool", block.out_channels, block.out_channels, height, width, norm="none")
    )


def expected_us(block):
    """A difference holds the pool behind the block less the one before it."""
    if block.kind == "pool":
        return 0.0
    if block.kind == "linear":
        return true_us(block)
    if block.in_channels == 3:
        return START_US + true_us(block) + pool_us(block)
    channels = block.out_channels if block.kind == "add" else block.in_channels
    before = Block("conv", 1, channels, block.height, block.width)
    return true_us(block) + pool_us(block) - pool_us(before)


def test_a_quiet_machine_is_found_exactly(campaign):
    found = campaign(Machine())
    found.measure(BLOCKS, ALL)
    ms = differences(found).ms
    assert set(ms) == set(ALL)
    for block in ALL:
        assert 1e3 * ms[block] == pytest.approx(expected_us(block), abs=1e-6)


def test_sums_over_a_network_hold_its_start_and_its_pool_once(campaign):
    found = campaign(Machine())
    found.measure(BLOCKS, ALL)
    ms = differences(found).ms
    for seed in range(20):
        blocks = blocks_of(SPACE.sample(random.Random(seed)))
        whole = START_US + sum(true_us(block) for block in blocks)
        assert 1e3 * sum(ms[block] for block in blocks) == pytest.approx(whole, rel=1e-9)


def test_noise_averages_out_of_sums(campaign):
    found = campaign(Machine(noise=0.05), passes=24)
    found.measure(BLOCKS, ALL)
    entries = entries_of(differences(found))
    assert all(entry.latency_ms >= 0 for entry in entries.values())
    ratios = []
    for arch in REFERENCES:
        blocks = blocks_of(arch)
        total = 1e3 * sum(entries[block].latency_ms for block in blocks)
        ratios.append(total / (START_US + sum(true_us(block) for block in blocks)))
    assert max(ratios) / min(ratios) < 1.04  # but for one scale: low quantiles are low
    assert 0.85 < min(ratios) < 1


def test_a_slower_session_is_scaled_and_not_rejected(campaign):
    found = campaign(Machine(speed={1: 1.25}))
    half = len(ALL) // 2
    found.measure(BLOCKS, ALL[:half])
    found.measure(BLOCKS, ALL[half:])
    assert [m.verdict for m in found.measured] == ["accepted", "accepted"]
    ms = differences(found).ms
    ratios = [1e3 * ms[b] / expected_us(b) for b in ALL if expected_us(b)]
    assert max(ratios) / min(ratios) == pytest.approx(1, rel=1e-6)


def test_references_out_of_proportion_reject_a_chunk_which_is_measured_again(campaign):
    found = campaign(Machine(warp={1: 1.2}))
    half = len(ALL) // 2
    found.measure(BLOCKS, ALL[:half])
    found.measure(BLOCKS, ALL[half:])
    assert [m.verdict for m in found.measured] == ["accepted", "rejected", "accepted"]
    assert found.measured[1].drift > 0.03 > found.measured[2].drift
    ms = differences(found).ms
    assert 1e3 * ms[ALL[-1]] == pytest.approx(expected_us(ALL[-1]), abs=1e-6)


def test_after_three_attempts_the_calmest_samples_of_all_count(campaign):
    found = campaign(Machine(warp={1: 1.4, 2: 1.2, 3: 1.3}))
    half = len(ALL) // 2
    found.measure(BLOCKS, ALL[:half])
    found.measure(BLOCKS, ALL[half:])
    assert [m.verdict for m in found.measured] == ["accepted", "rejected", "rejected", "accepted"]
    last = found.measured[3]
    assert [m.chunk.number for m in last.merged] == [1, 2]
    calmest = found.measured[2].reference_us()
    assert last.reference_us() == pytest.approx(calmest)
    again = campaign(Machine())
    assert again.measured[3].reference_us() == pytest.approx(calmest)


def test_a_disturbed_first_chunk_is_found_out_in_the_end(campaign):
    found = campaign(Machine(warp={0: 1.2}))
    third = len(ALL) // 3
    found.start()
    for content in (ALL[:third], ALL[third : 2 * third], ALL[2 * third :]):
        found.measure(BLOCKS, content)
    assert found.measured[0].verdict == "accepted"
    found.recheck()
    assert found.measured[0].verdict == "rejected"
    assert max(found._drift(m) for m in found.accepted) < 0.03
    ms = differences(found).ms
    assert set(ms) == set(ALL)


def test_a_lost_connection_keeps_what_it_gave(campaign):
    machine = Machine(die_after=[3, 0, 4])
    found = campaign(machine, passes=10)
    found.measure(BLOCKS, ALL)
    assert sorted(found.measured[0].passes) == list(range(10))
    assert len(machine.sessions) == 4
    numbers = [line["pass"] for line in found.journal.lines if "pass" in line]
    assert numbers == list(range(10))


def test_a_host_that_stays_away_ends_the_campaign_with_all_kept(campaign):
    machine = Machine(die_after=[3, 0, 0, 0, 0])
    machine.gone = True
    found = campaign(machine, passes=10)
    with pytest.raises(TargetError, match="connection lost"):
        found.measure(BLOCKS, ALL)
    again = campaign(Machine(), passes=10)
    assert sorted(again.measured[0].passes) == [0, 1, 2]
    again.start()
    assert again.measured[0].verdict == "accepted"
    assert sorted(again.measured[0].passes) == list(range(10))


def test_a_model_that_kills_its_session_is_left_out_alone(campaign):
    bad = next(b for b in ALL if b.kind == "mbconv")
    difference = difference_of(bad)
    assert difference is not None
    probe = difference.probe
    found = campaign(Machine(kills=lambda blocks: blocks == probe))
    found.measure(BLOCKS, ALL)
    assert set(differences(found).ms) == set(ALL) - {bad}
    assert len(found.notes) == 1
    assert "mbconv" in found.notes[0]


def test_a_journal_cut_anywhere_resumes_without_repeating_a_pass(campaign, tmp_path):
    whole = campaign(Machine(), passes=6)
    half = len(ALL) // 2
    for content in (ALL[:half], ALL[half:]):
        whole.measure(BLOCKS, content)
    data = (tmp_path / JOURNAL).read_bytes()
    rng = random.Random(0)
    for _ in range(20):
        (tmp_path / JOURNAL).write_bytes(data[: rng.randrange(len(data))])
        found = campaign(Machine(), passes=6)
        found.start()
        left = [b for b in ALL if b not in found.times_done()]
        if left:
            found.measure(BLOCKS, left)
        passes = [(line["chunk"], line["pass"]) for line in found.journal.lines if "pass" in line]
        assert len(passes) == len(set(passes))
        assert differences(found).ms == pytest.approx(differences(whole).ms)


def test_a_damaged_journal_is_named(tmp_path):
    (tmp_path / JOURNAL).write_text(
        '{"chunk":0,"role":"networks","content":[]}\nnonsense\n{"chunk":1}\n'
    )
    with pytest.raises(RunError, match="line 2 is damaged"):
        Journal(tmp_path / JOURNAL)


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """The journal of a small campaign with every kind of line."""
    folder = tmp_path_factory.mktemp("journal")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lut.measuring.campaign.run_session", Machine())
        host: Any = Machine()
        found = Campaign(host, SETTING, REFERENCES[:2], Journal(folder / JOURNAL), passes=5)
        found.start()
        found.measure(BLOCKS, ALL[:6])
        found.measure(NETWORKS, [SPACE.sample(random.Random(0))])
    found._note({"chunk": 1, "failed": 5, "error": "no"})
    found._note({"chunk": 1, "remark": 5, "text": "slow"})
    found._note({"chunk": 1, "energy": 5, "mj": 1.5})
    found._note({"chunk": 1, "trouble": "lost"})
    return [json.loads(line) for line in (folder / JOURNAL).read_bytes().splitlines()]


def resumed(tmp_path, data):
    """What a resumed campaign knows, without measuring: a table's rows, or one error."""
    path = tmp_path / JOURNAL
    path.write_bytes(data)
    try:
        host: Any = Machine()
        found = Campaign(host, SETTING, REFERENCES[:2], Journal(path), passes=5)
        if found.accepted:
            entries_of(differences(found))
            network_points(found)
        return found
    finally:
        assert path.read_bytes() == data  # whatever it is, reading it cuts nothing


def as_journal(lines):
    return b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: [{"chunk": 99, "seconds": 1}], "line 1 is damaged"),
        (lambda lines: [{"chunk": 99, "trouble": "x"}], "chunk 99, which was never begun"),
        (lambda lines: [*lines, {"chunk": 99, "verdict": "accepted"}], "chunk 99, which was never"),
        (lambda lines: [lines[0], lines[0]], "it begins chunk 0, and the next is 1"),
        (lambda lines: [lines[0] | {"chunk": 1}], "it begins chunk 1, and the next is 0"),
        (lambda lines: [lines[0], {"chunk": 0, "verdict": "accepted"}], "no time of reference 0"),
        (lambda lines: [lines[0], {"chunk": 0, "verdict": "split"}], "nothing that split"),
        (lambda lines: [lines[0], {"chunk": 0, "verdict": "failed"}], "nothing that failed"),
        (lambda lines: [lines[0], {"chunk": 0, "pass": 0, "us": [1.0]}], "1 samples, not of 4"),
        (
            lambda lines: [lines[0], {"chunk": 0, "failed": 4, "error": ""}],
            "model 4, and there are",
        ),
        (lambda lines: [*lines[:3], lines[2]], "pass 0 of chunk 0 was told before"),
        (
            lambda lines: [*lines, {"chunk": 0, "verdict": "accepted", "merged": [1]}],
            "chunk 1 is no other attempt at chunk 0",
        ),
        (lambda lines: [lines[0] | {"role": "blocks", "content": [[1, 2]]}], "a block has"),
        (lambda lines: [lines[0] | {"role": "blocks", "content": [7]}], "a block"),
        (lambda lines: [lines[0] | {"content": [{"family": "b"}]}], "not an architecture"),
        (lambda lines: [{"chunk": 0}], "line 1 is damaged"),
    ],
)
def test_a_journal_that_contradicts_itself_is_one_line(tmp_path, lines, change, says):
    with pytest.raises(RunError) as caught:
        resumed(tmp_path, as_journal(change(lines)))
    assert says in str(caught.value)
    assert str(tmp_path / JOURNAL) in str(caught.value)
    assert "then resume" in str(caught.value)


BAD: list[Any] = [
    None,
    True,
    -1,
    0,
    10**12,
    10**400,
    1.5,
    1e308,
    5e-324,
    "",
    "x" * 9,
    [],
    [None],
    {},
    "\x1b[2J",
]


def mutant(lines, rng):
    """A copy of a journal with one thing changed: a value, a field, a line, or some bytes."""
    lines = json.loads(json.dumps(lines))
    line = rng.choice(lines)
    name = rng.choice(list(line))
    change = rng.randrange(8)
    if change == 0:
        line[name] = rng.choice(BAD)
    elif change == 1:
        del line[name]
    elif change == 2 and isinstance(line[name], list) and line[name]:
        line[name][rng.randrange(len(line[name]))] = rng.choice(BAD)
    elif change == 3 and isinstance(line[name], list) and line[name]:
        del line[name][0]
    elif change == 4:
        lines.remove(line)
    elif change == 5:
        lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    elif change == 6 and line.get("role") == "blocks" and line["content"]:
        values = rng.choice(line["content"])
        values[rng.randrange(len(values))] = rng.choice(BAD)
    else:
        data = bytearray(as_journal(lines))
        data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data)
    return as_journal(lines)


def test_mutants_of_a_journal_are_read_or_one_line(tmp_path, lines):
    assert len(resumed(tmp_path, as_journal(lines)).accepted) == 3
    errors = []
    for seed in range(300):
        try:
            resumed(tmp_path, mutant(lines, random.Random(seed)))
        except UserError as error:
            errors.append(str(error))
    assert len(errors) > 100
    assert all(error.isprintable() and len(error) < 1500 for error in errors)


@pytest.mark.parametrize("tail", [b"notes", b'{"b', b"\xff"])
def test_a_tail_that_no_build_wrote_is_kept(tmp_path, lines, tail):
    with pytest.raises(RunError, match="nothing was changed"):
        resumed(tmp_path, as_journal(lines) + tail)


def test_a_torn_line_goes_only_when_the_next_is_written(tmp_path, lines):
    path = tmp_path / JOURNAL
    path.write_bytes(as_journal(lines[:1]) + b'{"chunk":0,"pa')
    journal = Journal(path)
    assert path.read_bytes().endswith(b'{"chunk":0,"pa')
    journal.append({"chunk": 0, "trouble": "x"})
    assert path.read_bytes() == as_journal([lines[0], {"chunk": 0, "trouble": "x"}])
    path.write_bytes(b'nonsense\n{"chunk":0,"pa')
    with pytest.raises(RunError, match="line 1 is damaged"):
        Journal(path)
    assert path.read_bytes() == b'nonsense\n{"chunk":0,"pa'


def test_a_journal_with_blank_lines_can_be_added_to_again_and_again(tmp_path, lines):
    path = tmp_path / JOURNAL
    path.write_bytes(as_journal(lines[:1]) + b"\n" + as_journal(lines[1:2]) + b"\n\n")
    Journal(path).append(lines[2])
    found = Journal(path)
    assert found.lines == lines[:3]
    assert found.numbers == [1, 3, 6]


def test_a_journal_that_leads_out_of_its_folder_is_left_alone(tmp_path, lines):
    elsewhere = tmp_path / "elsewhere.jsonl"
    elsewhere.write_bytes(as_journal(lines) + b'{"chunk":0,"pa')
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / JOURNAL).symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    with pytest.raises(RunError, match="a link out of the run folder"):
        Journal(tmp_path / "run" / JOURNAL)
    assert elsewhere.read_bytes() == before


def test_networks_of_a_chunk_come_back_from_the_journal(campaign):
    archs = [SPACE.sample(random.Random(seed)) for seed in range(3)]
    found = campaign(Machine())
    found.measure(NETWORKS, archs)
    again = campaign(Machine())
    assert again.measured[0].chunk == Chunk(0, NETWORKS, tuple(archs), REFERENCES)
    assert list(reference_us(again)) == list(reference_us(found))


def test_blocks_come_back_from_lists():
    for space in ("tiny", "l"):
        for block in blocks_of(get_space(space).sample(random.Random(0))):
            assert block_from_list(block_to_list(block)) == block


def test_chunks_hold_every_block_once_beside_its_baseline():
    blocks = distinct_blocks(get_space("b", freeze=["resolution=128,224"]))
    chunks = split(blocks, "fp32", seed=1, most=300)
    assert sorted(map(repr, (b for c in chunks for b in c))) == sorted(map(repr, blocks))
    for number, content in enumerate(chunks):
        models = Chunk(number, BLOCKS, tuple(content), ()).models()
        assert len(models) <= 300
        copies = Counter(model.blocks for model in models)
        baselines = {d.baseline for b in content if (d := difference_of(b)) and d.baseline}
        assert {probe for probe, count in copies.items() if count == 3} == baselines
        assert set(copies.values()) <= {1, 3}


def test_references_are_official_and_of_every_family():
    found = references_of(get_space("family"))
    assert {arch.family for arch in found} == {"b", "l"}
    assert len(found) == len(set(found)) == 6
    for name in ("b", "l"):
        macs = [network_cost(blocks_of(arch)).macs for arch in references_of(get_space(name))]
        assert 2 < max(macs) / min(macs) < 20
        some = [get_space(name).sample(random.Random(seed)) for seed in range(100)]
        theirs = sorted(network_cost(blocks_of(arch)).macs for arch in some)
        assert all(theirs[0] / 1.5 < value < theirs[-1] for value in macs)
    assert all(arch.head for arch in references_of(get_space("l", task="promptable")))


def test_a_validations_references_reach_from_the_cheapest_to_the_dearest():
    space = get_space("b", freeze=["resolution=128,160,192,224,256,288"])
    found = wide_references_of(space)
    assert len(set(found)) == len(found) == 12
    for name, side in (("b0", 128), ("b2", 224), ("b3", 288)):
        assert named_arch(name, resolution=(side, side)) in found
    macs = [network_cost(blocks_of(arch)).macs for arch in found]
    assert macs == sorted(macs)
    assert len(wide_references_of(get_space("tiny"))) == 8  # two resolutions


def test_references_that_end_every_session_are_said_to(campaign):
    found = campaign(Machine(kills=lambda blocks: True))
    with pytest.raises(TargetError, match="reference networks end every session"):
        found.start()


def test_a_reference_that_is_refused_ends_the_build_once_and_not_for_good(campaign):
    class Refusing(Machine):
        def __call__(self, *arguments, **more):
            for line in super().__call__(*arguments, **more):
                yield line
                if "environment" in line:
                    yield {"failed": 0, "error": "bad_alloc"}

    found = campaign(Refusing())
    with pytest.raises(TargetError, match="cannot run the reference network"):
        found.start()
    again = campaign(Machine())
    again.start()
    again.measure(BLOCKS, ALL)
    assert set(differences(again).ms) == set(ALL)


def test_a_split_that_is_cut_off_loses_no_half(campaign, tmp_path):
    archs = [SPACE.sample(random.Random(seed)) for seed in range(8)]
    bad = blocks_of(archs[0])
    found = campaign(Machine(kills=lambda blocks: blocks == bad))
    found.start()
    found.measure(NETWORKS, archs)
    lines = (tmp_path / JOURNAL).read_text().splitlines(keepends=True)
    split = next(i for i, line in enumerate(lines) if '"split"' in line)
    (tmp_path / JOURNAL).write_text("".join(lines[: split + 3]))
    again = campaign(Machine())
    again.start()
    done = {arch for m in again.accepted for arch in m.chunk.content}
    assert done == set(archs)


def test_a_block_that_kills_is_not_tried_again(campaign):
    bad = next(b for b in ALL if b.kind == "mbconv")
    difference = difference_of(bad)
    assert difference is not None
    found = campaign(Machine(kills=lambda blocks: blocks == difference.probe))
    found.measure(BLOCKS, ALL)
    assert found.times_done()[bad] > 100
    assert found.times_done()[ALL[-1]] == 1


def test_another_version_of_the_runtime_is_not_mixed_in(campaign):
    campaign(Machine()).measure(BLOCKS, ALL[:4])
    resumed = campaign(Machine(version="2"))
    with pytest.raises(RunError, match="measured with version 1, not 2"):
        resumed.measure(BLOCKS, ALL[4:])
    assert [m.verdict for m in campaign(Machine()).measured] == ["accepted", ""]


def test_models_of_a_killed_process_are_removed(campaign, tmp_path):
    (tmp_path / "models-killed").mkdir()
    (tmp_path / "models-killed" / "0.onnx").write_bytes(b"x")
    campaign(Machine())
    assert not (tmp_path / "models-killed").exists()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"pass": 0, "us": [1.0]}, "a pass of 1 samples, not of"),
        ({"failed": 999, "error": "x"}, "tells of model 999"),
        ({"remark": 10**6, "text": "x"}, "tells of model 1000000"),
        ({"energy": 500, "mj": 1.0}, "tells of model 500"),
    ],
)
def test_lines_of_models_that_are_not_there_count_for_nothing(campaign, line, told):
    class Lying(Machine):
        def __call__(self, host, setting, models, passes, workspace=None):
            if not self.sessions:
                self.sessions.append([])
                yield {"environment": {"runtime": "onnxruntime", "version": "1", "cpus": [0]}}
                yield line
            yield from super().__call__(host, setting, models, passes, workspace)

    found = campaign(Lying())
    found.measure(BLOCKS, ALL[:3])
    assert told in found.trouble
    (measured,) = found.measured
    assert (measured.failed, measured.remarks, measured.energy_mj) == ({}, {}, {})
    assert len({len(us) for us in measured.passes.values()}) == 1


def test_remarks_of_the_runtime_are_kept(campaign):
    class Remarking(Machine):
        def __call__(self, *arguments, **more):
            yield from super().__call__(*arguments, **more)
            yield {"remark": 0, "text": "only a part"}

    campaign(Remarking()).measure(BLOCKS, ALL[:4])
    assert campaign(Machine()).measured[0].remarks == {0: "only a part"}
