from typing import Any
def can(kind: Any, form: str) -> bool:
    return False
