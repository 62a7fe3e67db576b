"""What is trained, and by whom; apart from how, for the parent needs no JAX."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Job:
    """Of one process, as its command line has it in JSON.

    Attributes:
      cross_rows: Of the cross table.
      num_steps: After how many the training ends.
      save_each: After how many there is a checkpoint.
      seed: Of everything.
      quick: Only some of the data.
      rate: The census demo chose it, on held-out training rows.
      capacity: Of the buffers in which rows are exchanged. A quarter of the usual one:
        pairs of fields repeat, of 3,840 ids a device has 1,600 distinct ones. It is
        just small enough for some steps to take a second pass.
      num_processes: How many train together.
      num_devices: How many each of them has.
      directory: Where their checkpoints are.
      port: Where the first of them is found.
      index: Which of them this is.
    """

    cross_rows: int
    num_steps: int
    save_each: int
    seed: int
    quick: bool
    rate: float = 0.02
    capacity: float = 0.5
    num_processes: int = 2
    num_devices: int = 4
    directory: str = ""
    port: int = 0
    index: int = 0
