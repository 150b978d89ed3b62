"""Text in, batches of token ids out.

    shakespeare    two texts: the complete works (in the wheel) and tinyshakespeare (downloaded)
    text_files     the documents in your own files
    parquet_files  those of them that are tables
    decompression  those of them that are compressed
    what_bytes_are what a file is if not UTF-8, for the message
    other_ids      token ids as nanoGPT, llm.c and others keep them
    hub            datasets on the Hugging Face hub: pinned, checked, one document at a time
    hub_models     a model's folder on the hub: pinned, bounded, checked
    conversations  records with a list of messages
    source         any of these by one word, parted in two, and what exactly it was
    prepared       a folder of ids to train on and ids to check with, made from a source
    splitting      training and validation text, parted before a tokeniser sees either
    batches        shuffled windows for training, every window in order for validation
    cuts           windows across documents, or within them
    token_shards   a folder of token ids on disk, as one long row
    shard_files    a file of it: what was promised, and still the same
    permutation    the shuffle: constant memory, any position at once
    download       a file from the internet: right or not there at all
    whole_files    writing a file so that it is whole or not there; its sha256

Importing this package opens no file and no connection.
"""

from tricycle_datasets.batches import Batches, check_ids, windows
from tricycle_datasets.conversations import messages_of, open_conversations
from tricycle_datasets.hub import HUB_DATASETS, HubDocuments, hub_documents
from tricycle_datasets.hub_models import hub_model, is_hub_model
from tricycle_datasets.other_ids import read_ids
from tricycle_datasets.prepared import (
    Prepared,
    is_prepared,
    open_prepared,
    prepare,
    read_record,
)
from tricycle_datasets.shakespeare import load_shakespeare, load_tinyshakespeare
from tricycle_datasets.shard_files import ShardError
from tricycle_datasets.source import Source, open_source
from tricycle_datasets.splitting import is_validation, split_documents, split_text
from tricycle_datasets.text_files import read_documents
from tricycle_datasets.token_shards import TokenShards

__all__ = [
    "HUB_DATASETS",
    "Batches",
    "HubDocuments",
    "Prepared",
    "ShardError",
    "Source",
    "TokenShards",
    "check_ids",
    "hub_documents",
    "hub_model",
    "is_hub_model",
    "is_prepared",
    "is_validation",
    "load_shakespeare",
    "load_tinyshakespeare",
    "messages_of",
    "open_conversations",
    "open_prepared",
    "open_source",
    "prepare",
    "read_documents",
    "read_ids",
    "read_record",
    "split_documents",
    "split_text",
    "windows",
]
