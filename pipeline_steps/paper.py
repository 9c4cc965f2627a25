"""Every number taken from the paper, with its place in it.

Sachdeva et al., "How to Train Data-Efficient LLMs", arXiv 2402.09668 (v1). Totals are tested against factors.
"""

SKETCH_ROWS = 1_000  # App. B.2: "[1,000 x 20,000] sketch matrix"
SKETCH_BUCKETS = 20_000  # App. B.2
SKETCH_BYTES = 80_000_000  # App. A.2: "80 MB"

TRAIN_STEPS = 1_000_000  # Sec. 4.1
TRAIN_BATCH = 1_024  # Sec. 4.1, sequences per step
TRAIN_INPUT_LENGTH = 512  # Sec. 4.1, encoder tokens per sequence
TRAIN_TOKENS = 524_288_000_000  # Sec. 4.2: "exactly 524B tokens"
C4_TOKENS = 184_000_000_000  # Sec. 4.1, tokens of C4 under T5's vocabulary
RATES = (0.1, 0.2, 0.4, 0.6, 0.8)  # Sec. 4.2, fractions of C4 that samplers keep
MILESTONES = (20_000, 100_000, 300_000, 500_000, 700_000)  # App. B.5, steps whose T5-Large scores perplexity
REPETITIONS = (2, 3, 5, 10, 20, 30)  # App. D.3, Fig. 17 - 23: "Max ... epochs"
