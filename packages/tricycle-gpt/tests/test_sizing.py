"""A size for the machine: as large as time, text and memory make sensible, and no larger."""

import pytest

from tricycle_gpt import GPTConfig, choose_size
from tricycle_gpt.runs import sizing
from tricycle_gpt.runs.sizing import LEAST, MOST, READINGS, SIZES, count, model_of


@pytest.fixture
def machine(monkeypatch):
    """A machine of 100 GFLOP/s whose memory ends at some width; says what was measured."""

    class Machine:
        flops, widest, measured = 1e11, 10**6, []

    def measure(model, besides, device):
        Machine.measured.append(model.embedding_dim)
        if model.embedding_dim > Machine.widest:
            raise ValueError("this model needs more memory")
        return Machine.flops / count(model)[1], 2048 // model.context_window or 1

    Machine.measured = []
    monkeypatch.setattr(sizing, "measure", measure)
    return Machine


def looked_at(chosen):
    model, training = chosen
    return training.tokens(model.context_window)


@pytest.mark.parametrize("minutes", [3, 10, 100, 1000])
def test_the_size_is_the_largest_that_gets_its_tokens_a_parameter(machine, minutes):
    model, training = choose_size(4096, None, minutes)
    parameters, flops = count(model)
    tokens = training.tokens(model.context_window)
    assert LEAST * parameters * 0.98 <= tokens <= MOST * parameters
    assert tokens * flops <= 60 * minutes * machine.flops
    larger = SIZES[[size.embedding_dim for size in SIZES].index(model.embedding_dim) + 1]
    parameters, flops = count(model_of(larger, 4096))
    assert 60 * minutes * machine.flops / flops < LEAST * parameters


@pytest.mark.slow
def test_more_time_never_means_a_smaller_model(machine):
    widths = [choose_size(4096, None, 2.0**k)[0].embedding_dim for k in range(12)]
    assert widths == sorted(widths)
    assert len(set(widths)) >= 4


def test_a_short_text_gets_a_small_model_and_few_readings(machine):
    model, training = choose_size(4096, 100_000, 1000)
    assert model.embedding_dim == SIZES[0].embedding_dim
    tokens = looked_at((model, training))
    assert READINGS * 100_000 * 0.98 <= tokens <= READINGS * 100_000


def test_what_could_not_get_enough_is_not_measured(machine):
    model, _ = choose_size(4096, None, 10)
    place = [size.embedding_dim for size in SIZES].index(model.embedding_dim)
    assert len(machine.measured) <= place + 2


def test_what_does_not_fit_into_memory_is_not_chosen(machine):
    machine.widest = 128
    assert choose_size(4096, None, 10_000)[0].embedding_dim == 128
    machine.widest = 32
    with pytest.raises(ValueError, match="needs more memory"):
        choose_size(4096, None, 10)


@pytest.mark.parametrize("minutes", [0.001, 3, 1000])
def test_steps_are_about_a_thousand_and_batches_fill_them(machine, minutes):
    model, training = choose_size(4096, None, minutes, seed=5)
    per_step = training.batch_size * training.micro_batches * model.context_window
    assert per_step >= 1024
    assert training.steps == 10 or 300 < training.steps < 2100 or per_step in (1024, 1 << 19)
    assert training.batch_size * model.context_window <= 2048
    assert training.seed == 5


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 64])
def test_ranks_can_share_its_steps(machine, ranks):
    model, training = choose_size(4096, None, 10, ranks=ranks)
    windows, batches = training.share(ranks)
    assert windows * batches * ranks == training.batch_size * training.micro_batches
    assert training.batch_size * model.context_window <= 2048
    alone = choose_size(4096, None, 10)
    assert looked_at((model, training)) == pytest.approx(looked_at(alone), rel=0.05)


def test_the_same_machine_gives_the_same_choice(machine):
    assert choose_size(4096, 10**6, 10) == choose_size(4096, 10**6, 10)


def test_it_really_measures(monkeypatch):
    monkeypatch.setattr(sizing, "SIZES", SIZES[:1])
    model, training = choose_size(300, 5000, 0.02)
    assert model == GPTConfig(300, 64, 64, n_layers=2, n_heads=2)
    assert 10 <= training.steps <= 5000 * READINGS // 1024


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="minutes must be above 0, got 0"):
        choose_size(4096, None, 0)
    with pytest.raises(ValueError, match="the text has 64 tokens, and the smallest model looks at"):
        choose_size(4096, 64, 1)
