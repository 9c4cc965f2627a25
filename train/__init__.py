"""Pre-train T5 on a selection, for a fixed number of tokens.

The flow, one module a step:

    documents -> token_store.TokenStoreWriter -> token_store.TokenStore
        -> replay.Replay(selection)           sample i -> window of raw tokens, whatever the number of processes
        -> span_corruption.SpanCorruption     window -> inputs and targets
        -> pretrain (model, optimizer)        `accelerate launch -m train.pretrain --help`
        -> checkpoints                        folders that transformers loads

This package is an application: nothing is exported here. `python -m train` is `python -m train.pretrain`.
"""
