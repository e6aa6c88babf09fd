"""What is trained on: one layout of files a module, the checks they share, batches and transforms."""

from gradflow.data.arrays import from_arrays as from_arrays
