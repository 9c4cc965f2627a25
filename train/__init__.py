"""Pre-train T5, or a Llama, on a selection for a fixed number of tokens.

The flow, one module a step:

    documents -> token_store_writer.TokenStoreWriter -> token_store.TokenStore
        -> replay.Replay(selection)     sample i -> window of raw tokens, whatever the number of processes
        -> objectives                   window -> inputs and targets: span_corruption, or the next token
        -> batches.Batches              rows of a process, made ahead by a thread
        -> loop.Trainer                 model, losses, adafactor; `accelerate launch -m train.pretrain --help`
        -> checkpoints                  folders that transformers loads

`plan` settles what a run is before anything heavy is imported; `costs` and `flops` say what it takes.

This package is an application: nothing is exported here. `python -m train` is `python -m train.pretrain`.
"""
