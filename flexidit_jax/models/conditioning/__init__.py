"""Conditioners, one a file: `Conditioner(width, ...)` turns a condition into what the network reads.

Only a conditioner knows what its condition is made of; to everybody else that is a pytree of rows
(`conditioning.condition`). Beside `__call__(cond) -> Context` a conditioner has

    fields      the keys of a record that it reads, and of its condition
    own         those of them that are a sample's own whatever guides it; only where there are some
    limits      {field: (lowest, highest)} of the fields that are numbers to choose from
    drop_rate   share of training records whose condition is replaced by none
    length      of its tokens; only where there are some
    features    k, channels of these before it reads them; only where an encoder of `text` makes them
    token_macs  what its own layers cost a token (`models.flops`); only where there are some
    parse(asked) -> Condition      what a user typed, on the host; None in a list is no condition
    said(cond) -> str      what a condition asks for, in words; only where there are some
    completed(given) -> given      arrays of a ready condition (None of ragged rows), what it may leave out filled in;
                                   only where it may
    sampled     {key of a spec: what it is where nobody says}, only where that is not DiT's (`sampling.spec.own_words`)
    grown(rows, columns)           for pictures so many times as high and wide; only where it reads their size

and where `cond["null"]` is set it speaks for itself, by parameters of its own: a row of a table, a learned caption.
A leaf of its own that is called `null` is data, and never trained (`models.flexify.split_frozen`).
"""
