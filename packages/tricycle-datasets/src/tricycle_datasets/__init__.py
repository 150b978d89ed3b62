"""Text in, batches of token ids out.

    shakespeare    two texts: the complete works (in the wheel) and tinyshakespeare (downloaded)
    text_files     the documents in your own files
    splitting      training and validation text, parted before a tokeniser sees either
    batches        shuffled windows for training, every window in order for validation
    permutation    the shuffle: constant memory, any position at once
    download       a file from the internet: right or not there at all

Importing this package opens no file and no connection.
"""

from tricycle_datasets.batches import Batches, check_ids, windows
from tricycle_datasets.shakespeare import load_shakespeare, load_tinyshakespeare
from tricycle_datasets.splitting import is_validation, split_documents, split_text
from tricycle_datasets.text_files import read_documents

__all__ = [
    "Batches",
    "check_ids",
    "is_validation",
    "load_shakespeare",
    "load_tinyshakespeare",
    "read_documents",
    "split_documents",
    "split_text",
    "windows",
]
