// Lists of tensors that srft::look has seen, for the step that follows. Passing a list from Python costs more than a
// step's checks of it, so a step takes the list of the look before it, by number.
#pragma once

#include "tensors.h"

namespace srft::ops {

// Returns the list of a look and forgets it. The number 0 stands for an empty list; any other number that is unknown is
// refused.
__attribute__((visibility("default"))) TensorList taken_look(int64_t number);

}  // namespace srft::ops
