// Between torch's order of images and ours: matrices of channels and pixels, one a sample, transposed.
//
// A unit of work is as many rows of a sample's result as a vector has lanes.
inline void transpose(const float* x, float* y, std::int64_t rows, std::int64_t columns, Part part) {
    const std::int64_t blocks = (columns + Isa::lanes - 1) / Isa::lanes;
    for (std::int64_t unit = part.begin; unit < part.end; ++unit) {
        const std::int64_t sample = unit / blocks * rows * columns, begin = unit % blocks * Isa::lanes;
        const std::int64_t end = smaller(begin + Isa::lanes, columns);
        const float* from = x + sample;
        float* to = y + sample;
        std::int64_t row = 0;
        if (end == begin + Isa::lanes)
            for (; row + Isa::lanes <= rows; row += Isa::lanes)
                Isa::transpose(from + row * columns + begin, columns, to + begin * rows + row, rows);
        for (std::int64_t column = begin; column < end; ++column)
            for (std::int64_t i = row; i < rows; ++i) to[column * rows + i] = from[i * columns + column];
    }
}
