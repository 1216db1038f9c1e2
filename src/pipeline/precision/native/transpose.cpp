// Images from torch's order to ours and back.
#include "packing.hpp"

namespace parsimony {

void transpose(const Routines& table, const float* x, float* y, std::int64_t batch, std::int64_t rows,
               std::int64_t columns, const Team& team) {
    const std::int64_t units = batch * ceil_divide(columns, table.lanes);
    share(team, units, ceil_divide(worth_a_thread, rows * table.lanes), 1, [&](Part part, int) {
        table.transpose(x, y, rows, columns, part);
        return std::int64_t{0};
    });
}

}  // namespace parsimony
