"""Floor 7: data, from a corpus to the batches of a model.

Reading order: `corpora` (texts), `batches` (datasets, token streams and the rows that are cut from them),
`token_folders` (ids that are there already), `images` (MNIST) and `toy_data`.
"""

from .batches import (
    IGNORED_TARGET,
    Batch,
    Dataset,
    DatasetHandler,
    DocumentBatches,
    DocumentStore,
    StreamBatches,
    TextDataset,
    TokenStream,
    evaluation_batches,
    split_train_validation,
)
