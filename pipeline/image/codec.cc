#include "pipeline/image/codec.h"
