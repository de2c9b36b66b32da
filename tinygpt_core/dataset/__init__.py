"""Floor 8: data, from a corpus to the batches of a model.

Reading order: `corpora` (texts), `tokens` (a long row of ids, compact), `datasets` (numbered samples, such as
documents, and TinyGPT's batches of any), `batches` (the rows that a language model learns from),
`conversations` (questions and answers), `token_folders` (ids that lie in files already), `images` (MNIST) and
`toy_data`.
"""

from .batches import (
    IGNORED_TARGET,
    Batch,
    DocumentBatches,
    Items,
    StreamBatches,
    evaluation_batches,
    split_train_validation,
)
from .datasets import Dataset, DatasetHandler, DocumentStore, TextDataset
from .tokens import TokenStream
