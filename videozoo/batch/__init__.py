"""Many videos to one table: inputs -> work list -> pieces (decoded) -> rows (answered) -> file, in any number of tries.

    inputs.py    files, folders, lists and globs as one list of videos without repetition
    pieces.py    the decoding stage: a video to the frames of its views, or of its windows, with their seconds
    answers.py   the model stage: a piece to a row with a vector or ranked labels
    rows.py      what is written of a piece, or of a video that cannot be decoded
    tables.py    rows to Parquet, JSON lines or safetensors
    decoders.py  processes that decode beside the network
    local.py     the stages on one machine, with a journal
    on_ray.py    the same stages on Ray Data

Nothing that decodes imports the networks, and nothing that answers imports PyAV's decoders by itself.
"""
