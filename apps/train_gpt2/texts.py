"""The text of a run: which tokens it is made of, and where its ids are."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from settings import Arguments, sized, weights

from tricycle_bpe import Tokeniser
from tricycle_datasets import (
    HUB_DATASETS,
    Prepared,
    Source,
    is_prepared,
    messages_of,
    open_conversations,
    open_prepared,
    open_source,
    prepare,
    read_record,
)
from tricycle_gpt import Answers, Conversations, read_gguf, say

END_OF_TEXT = "<|endoftext|>"
LEARNED_FROM = 64_000_000  # bytes of text that tokens are learned from
BYTES_OF_A_TOKEN = 4  # of English text, about, for a plan


def foreseen(args: Arguments, named: set[str], ranks: int) -> Arguments:
    """The settings to plan for: for the data, if it is prepared, or a text that is long enough."""
    place = place_of_data(args)
    # What lies in the folder itself may be another text, unless the run there is to go on.
    ours = args.resume or args.shards is not None or place == Path(args.data or "")
    if ours or args.tokeniser is not None:
        args = speaking(args, known_tokeniser(args, place))
    record = (read_record(place) if ours else None) or {}
    tokens = record.get("train", {}).get("n_tokens") or expected_tokens(args)
    return sized(args, named, tokens, ranks)


def expected_tokens(args: Arguments) -> int | None:
    """About how many tokens the training text of the user's own files has; all of it is read.

    None for datasets of the hub, which nobody reads whole, and for the works of Shakespeare, which
    set no limit to a size; from weights, of a size that is given, they are read too.
    FileNotFoundError for a path that is not there, ValueError for what cannot be read.
    """
    word = args.data or ""
    is_hub = word.startswith("hub:") or (word in HUB_DATASETS and not Path(word).exists())
    if (args.data is None and args.from_ is None) or is_hub or (word and is_prepared(word)):
        return None
    source = source_of(args)
    if args.chat:
        tokeniser = known_tokeniser(args, place_of_data(args))
        assert tokeniser is not None  # that of the weights
        return len(as_answers(args, source.training(), tokeniser))
    n_bytes = sum(len(text.encode()) for text in source.training())
    tokens = n_bytes // BYTES_OF_A_TOKEN
    say(f"{source.name}: {n_bytes:,} bytes to train on, about {tokens:,} tokens")
    return max(1, tokens)


def source_of(args: Arguments, record: dict | None = None) -> Source:
    """The texts that the settings name."""
    if args.chat:
        assert args.data is not None  # with_weights has asked for it
        return open_conversations(args.data, args.validation, field=args.text_field or "messages")
    return open_source(
        args.data,
        args.validation,
        field=args.text_field,
        record=record,
        skip_unreadable=args.skip_unreadable,
    )


def prepare_data(args: Arguments, named: set[str], ranks: int) -> Arguments:
    """Encode both sides of the data, unless they are, and choose a size for them."""
    if args.chat:
        return sized(args, named, len(open_data(args)[1].train), ranks)
    place = place_of_data(args)
    tokeniser = known_tokeniser(args, place)
    if tokeniser is not None and args.tokeniser is None:
        say(f"the tokens are those of {place}")
    args = speaking(args, tokeniser)
    if not (is_prepared(place) and (args.resume or place == Path(args.data or ""))):
        before = read_record(place) or {}
        then = before.get("source")
        source = source_of(args, then)
        if source.is_hub and args.max_tokens is None:
            args = args if before else sized(args, named, None, ranks)
            tokens = before.get("max_tokens") or args.training.tokens(args.model.context_window)
            args = replace(args, max_tokens=tokens)
        if tokeniser is None:
            vocabulary, ends = args.model.vocab_size, [END_OF_TEXT]
            say(f"learning {vocabulary} tokens")
            texts = source.beginning(LEARNED_FROM)
            tokeniser = Tokeniser.train(texts, vocabulary, special_tokens=ends)
        if not is_prepared(place):
            say(f"encoding {source.name} to {place}")
        prepare(
            source,
            place,
            tokeniser,
            workers=args.workers,
            max_tokens=args.max_tokens,
            end_of_text=end_of_text(args, tokeniser),
        )
    tokeniser, data = open_data(args)
    return sized(speaking(args, tokeniser), named, len(data.train), ranks)


def open_data(args: Arguments) -> tuple[Tokeniser, Prepared | Conversations]:
    """The tokeniser and both sides of data that is prepared, or of conversations.

    ValueError if the data was made by another tokeniser than the one asked for.
    """
    place = place_of_data(args)
    tokeniser = known_tokeniser(args, place)
    assert tokeniser is not None  # prepared data has one
    if args.chat:
        return tokeniser, conversations(args, tokeniser)
    return tokeniser, open_prepared(place, tokeniser.fingerprint())


def conversations(args: Arguments, tokeniser: Tokeniser) -> Conversations:
    """Both sides of conversations, encoded in memory."""
    source = source_of(args)
    train, validation = (
        as_answers(args, side, tokeniser) for side in (source.training(), source.validation())
    )
    record = {
        "source": source.record,
        "validation_share": args.validation,
        "tokeniser": tokeniser.fingerprint(),
        "end_of_text": end_of_text(args, tokeniser),
        "train": train.counts(),
        "validation": validation.counts(),
    }
    return Conversations(train, validation, record)


def as_answers(args: Arguments, documents: Iterable[str], tokeniser: Tokeniser) -> Answers:
    """Conversations as the weights' makers write them, as ids."""
    start = weights(args.from_)
    assert start is not None  # with_weights has asked for it
    return Answers.of(messages_of(documents), start.chat(tokeniser.special_tokens), tokeniser)


def place_of_data(args: Arguments) -> Path:
    """Where the encoded text is, or will be."""
    if args.data is not None and is_prepared(args.data):
        return Path(args.data)
    return args.shards or args.folder / "data"


def known_tokeniser(args: Arguments, place: Path) -> Tokeniser | None:
    """The tokeniser asked for, or that of data whose preparation has started; None for neither."""
    if args.tokeniser is not None:
        tokeniser = tokeniser_in(args.tokeniser)
        end = end_of_text(args, tokeniser)
        if end not in tokeniser.special_tokens:
            raise ValueError(f"the tokeniser in {args.tokeniser} has no {end} token")
        refuse_another_tokeniser(args, tokeniser)
        return tokeniser
    return Tokeniser.load(place) if (place / "data.json").is_file() else None


def refuse_another_tokeniser(args: Arguments, tokeniser: Tokeniser) -> None:
    """ValueError if the tokeniser that was asked for gives other ids than that of the weights."""
    start = weights(args.from_)
    if start is None or str(start.place) == args.tokeniser or not has_tokeniser(start.place):
        return
    if tokeniser_in(str(start.place)).fingerprint() != tokeniser.fingerprint():
        raise ValueError(
            f"the tokeniser in {args.tokeniser} gives other ids than the one that the weights in "
            f"{start.place} were trained with: leave --tokeniser out"
        )


def has_tokeniser(place: Path) -> bool:
    """Whether the place of weights has a tokeniser beside them."""
    if place.suffix == ".gguf":
        return read_gguf(place).settings.get("tokenizer.ggml.model", "none") != "none"
    return (place / "tokenizer.json").is_file()


def tokeniser_in(name: str) -> Tokeniser:
    """A tokeniser by its folder, its file or its name, or that of a GGUF file."""
    if name.endswith(".gguf") and Path(name).is_file():
        return Tokeniser.from_gguf(read_gguf(name).settings)
    return Tokeniser.open(name)


def end_of_text(args: Arguments, tokeniser: Tokeniser) -> str:
    """The special token that stands after each document."""
    start = weights(args.from_)
    return END_OF_TEXT if start is None else start.end_of_text(tokeniser.special_tokens)


def speaking(args: Arguments, tokeniser: Tokeniser | None) -> Arguments:
    """The settings of a model that knows as many tokens as a tokeniser has.

    Weights know some number of them already: ValueError if the tokeniser has more.
    """
    vocabulary = tokeniser.n_vocab if tokeniser else args.model.vocab_size
    start = weights(args.from_)
    if start is not None:
        if vocabulary > start.config.vocab_size:
            raise ValueError(
                f"the tokeniser in {args.tokeniser} has {vocabulary:,} tokens, and the weights in "
                f"{start.place} know {start.config.vocab_size:,}: leave --tokeniser out"
            )
        return args
    return replace(args, model=replace(args.model, vocab_size=vocabulary))
