"""Printed totals must follow from printed factors."""

from pipeline_steps import ASK_LLM, paper


def test_totals_follow_from_factors():
    assert paper.TRAIN_STEPS * paper.TRAIN_BATCH * paper.TRAIN_INPUT_LENGTH == paper.TRAIN_TOKENS
    assert paper.SKETCH_ROWS * paper.SKETCH_BUCKETS * 4 == paper.SKETCH_BYTES  # int32 counters


def test_the_prompt_is_the_papers():
    """Fig. 3, checked by its digest so that no edit passes unseen."""
    import hashlib

    text = ASK_LLM.prefix + "{datapoint}" + ASK_LLM.suffix
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "f20f2972e54c2c7b"
    assert ASK_LLM.suffix.endswith("OPTIONS:\n- yes\n- no")
