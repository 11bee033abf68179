"""Tests: every backend against textbook loops, and each room on its own ground.

    pytest                          what needs no GPU, but for full products of cases
    pytest -m slow                  these
    pytest -m gpu --require-gpu     what needs a CUDA device

Files that ENGINE_TESTS in conftest.py names (filters, convolutions, pools) run once on each
backend; test_numpy_*.py and test_cuda_*.py look into one of them; test_emulator*.py are about the
CPU that plays a GPU, test_bench*.py about bench/. What they share:

    reference.py                    the truth, in float64 and Python's integers
    image_cases.py, map_cases.py    inputs of every dtype, layout and size; what is right enough
    step_cases.py, matrix.py        operations by their text; pairs of too many settings
    cuda_cases.py, launchers.py     calls that launch every kernel; launches without a device
    emulator/, nvrtc.py             CUDA source on the CPU, and compiled for every architecture
    fake_cupy.py, onnx_cases.py     CuPy on the CPU; ONNX's own cases
    image_files.py, image_formats.py, processes.py      files, and runs of the command line

What a test draws hangs on the test alone: the fixture `rng`, or a seed of its own.
"""
