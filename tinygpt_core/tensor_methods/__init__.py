"""Floor 5: the methods of Tensor that tutorials use beyond what a GPT needs, by subject.

Each module has the operations of one subject, each with its derivative, and below them a class with the
methods that apply them. `Tensor` inherits these classes: its list of bases is where its methods are.

    elementwise   abs sign minimum clamp, floor ceil round trunc // %, log1p expm1, isnan isinf isfinite, &|~
    reductions    min argmin prod var std logsumexp norm any all cumsum
    ordering      sort argsort topk
    layout        squeeze unsqueeze flatten flip roll split chunk repeat tile, triu, outer
    indexing      x[…] with None, masks, and arrays of positions; gather masked_fill one_hot nonzero
"""

from .elementwise import Elementwise
from .indexing import Indexing
from .layout import Layout
from .ordering import Ordering
from .reductions import Reductions
