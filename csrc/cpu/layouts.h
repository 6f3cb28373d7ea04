// Lists of tensors that srft::look has seen, for the step that follows: handing over a list costs more than a step's
// checks of it, so a step takes the list of the look before it, by number.
#pragma once

#include "tensors.h"

namespace srft::ops {

// The list of a look, which is forgotten with this call; of 0 an empty one. Anything else is refused.
__attribute__((visibility("default"))) TensorList taken_look(int64_t number);

}  // namespace srft::ops
