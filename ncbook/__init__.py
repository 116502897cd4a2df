"""Neural collapse and few-shot transfer, in runnable notebooks."""
