// CUDA for a host compiler: what kernels_cu/common/prelude.cuh includes under the emulator.
#pragma once
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <type_traits>
#include <utility>

#include "machine.hpp"

#include "language.hpp"

#include "arithmetic.hpp"
#include "atomics.hpp"
#include "half.hpp"
#include "tensor_core.hpp"
#include "warp.hpp"

#include "export.hpp"
