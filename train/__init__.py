"""Pre-train T5, or a decoder, on a selection for a fixed number of tokens.

The flow, one module a step:

    documents -> token_store_writer.TokenStoreWriter -> token_store.TokenStore
        -> replay.Replay(selection)     sample i -> window of raw tokens, whatever the number of processes
        -> objectives                   window -> inputs and targets: span corruption, or the next token
        -> batches.Batches              rows of a process, made ahead by a thread
        -> loop.Trainer                 model, layers, packed_documents, losses, optimizers; `winnow pretrain --help`
        -> checkpoints                  folders that transformers loads
        -> branches, averages           other budgets from one run; the mean of its checkpoints

`pretrain` and `fine_tune` hold the two kinds of run, and `training_plan` what the loop asks of them: a run is settled
before anything heavy is imported. `costs` counts what a run takes; `verify_resume` proves that a killed run goes on.

This package is an application: nothing is exported here. `python -m train` is `python -m train.pretrain`.
"""
