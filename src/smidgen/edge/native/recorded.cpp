#include "recorded.h"

#include <cmath>

namespace smidgen {
namespace {

constexpr int64_t kSharedNumbers = 8192;  // from so many on, all threads take part in an operation; see lowering.py
constexpr int kPartsPerThread = 4;
constexpr int64_t kDotRows = 16, kMeanColumns = 64;  // of a product, the smallest part that a thread takes

bool is_product(const EdgeOperation& o) { return o.code == OP_PRODUCT; }
bool is_over_rows(const EdgeOperation& o) { return o.code == OP_SOFTMAX || o.code == OP_LENGTH || o.code == OP_LARGEST; }
bool has_rows_of_b(const EdgeOperation& o) { return o.b.stride[2] == 1; }  // in a product: k is contiguous

int64_t bytes_of(int32_t dtype) { return dtype == DT_F32 ? 4 : dtype == DT_BF16 ? 2 : dtype == DT_I64 ? 8 : 1; }

char* moved(const EdgeOperand& o, int64_t numbers) { return static_cast<char*>(o.data) + numbers * bytes_of(o.dtype); }

double get(const char* p, int32_t dtype) {
    switch (dtype) {
        case DT_F32: return *reinterpret_cast<const float*>(p);
        case DT_BF16: return bf16_to_float(*reinterpret_cast<const uint16_t*>(p));
        case DT_I64: return double(*reinterpret_cast<const int64_t*>(p));
        default: return *reinterpret_cast<const uint8_t*>(p);
    }
}

void put(char* p, int32_t dtype, double value) {
    switch (dtype) {
        case DT_F32: *reinterpret_cast<float*>(p) = float(value); return;
        case DT_BF16: *reinterpret_cast<uint16_t*>(p) = float_to_bf16(float(value)); return;
        case DT_I64: *reinterpret_cast<int64_t*>(p) = value > -0x1p63 && value < 0x1p63 ? int64_t(value) : INT64_MIN; return;
        default: *reinterpret_cast<uint8_t*>(p) = value != 0;
    }
}

double remainder_of(double a, double b) {
    const double r = std::fmod(a, b);
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

double gelu(double x) { return x / (1 + std::exp(-1.5957691216057308 * (x + 0.044715 * x * x * x))); }

// One number, in double precision: rounded to float32 it is what float32 arithmetic gives, and positions are exact.
double computed(int32_t code, double a, double b, double c, double number) {
    switch (code) {
        case OP_ADD: return a + number * b;
        case OP_SUB: return a - number * b;
        case OP_MUL: return a * b;
        case OP_DIV: return a / b;
        case OP_ADDCDIV: return a + number * (b / c);
        case OP_MAXIMUM: return a < b ? b : a;
        case OP_MINIMUM: return a > b ? b : a;
        case OP_SILU: return a / (1 + std::exp(-a));
        case OP_GELU: return gelu(a);
        case OP_ABS: return std::fabs(a);
        case OP_ROUND: return std::nearbyint(a);
        case OP_RECIPROCAL: return 1 / a;
        case OP_SQRT: return std::sqrt(a);
        case OP_RSQRT: return 1 / std::sqrt(a);
        case OP_COS: return std::cos(a);
        case OP_SIN: return std::sin(a);
        case OP_HYPOT: return std::sqrt(a * a + b * b);
        case OP_REMAINDER: return remainder_of(a, b);
        case OP_EQ: return a == b;
        case OP_NE: return a != b;
        case OP_LT: return a < b;
        case OP_LE: return a <= b;
        case OP_GT: return a > b;
        case OP_GE: return a >= b;
        case OP_NOT: return a == 0;
        case OP_AND: return a != 0 && b != 0;
        case OP_WHERE: return a != 0 ? b : c;
        default: return a;
    }
}

bool is_float(int32_t dtype) { return dtype == DT_F32 || dtype == DT_BF16; }
bool is_vector(const EdgeOperand& o) {
    return o.dtype == DT_NONE || (is_float(o.dtype) && (o.stride[3] == 1 || o.stride[3] == 0));
}
bool maps_vectors(const EdgeOperation& o) {
    return (o.code <= OP_ROUND || o.code == OP_TAKE || o.code == OP_PUT) && is_float(o.out.dtype) && o.out.stride[3] == 1 &&
           is_vector(o.a) && is_vector(o.b) && is_vector(o.c);
}

// Where row `row` of the first three dimensions begins.
int64_t offset(const int64_t* stride, const int64_t* size, int64_t row) {
    const int64_t k = row % size[2], j = row / size[2] % size[1], i = row / size[2] / size[1];
    return i * stride[0] + j * stride[1] + k * stride[2];
}

// The part of `count` that is this one's, in steps of `step`.
struct Share {
    int64_t first, last;
    Share(int64_t count, int64_t step, int part, int parts) {
        const int64_t steps = (count + step - 1) / step;
        first = smaller(steps * part / parts * step, count), last = smaller(steps * (part + 1) / parts * step, count);
    }
};

}  // namespace

int RecordedRunner::parts(const EdgeOperation& o) const {
    const int64_t numbers = o.size[0] * o.size[1] * o.size[2] * o.size[3];
    const bool is_alone = pool_.size() == 1 || numbers < kSharedNumbers || o.code == OP_LARGEST;
    return is_alone ? 1 : pool_.size() * kPartsPerThread;
}

const char* RecordedRunner::run(const EdgeOperation* operations, int64_t count) {
    int64_t most = 0;
    bool is_shared = false;
    for (int64_t i = 0; i < count; i++) {
        const EdgeOperation& o = operations[i];
        is_shared |= parts(o) > 1;
        const int64_t needed = is_product(o) ? o.size[1] * (o.size[3] + kMeanColumns) : is_over_rows(o) ? o.size[3] : 0;
        most = larger(most, needed + 32);
    }
    for (auto& room : room_)
        if (int64_t(room.size()) < most) room.resize(size_t(most));
    operations_ = operations, count_ = count;
    has_wrong_index_ = false;
    if (!is_shared) {
        work(room_[0].data());
    } else {
        ticket_.store(~uint64_t(0));
        pool_.run([](void* argument, int thread) {
            RecordedRunner& self = *static_cast<RecordedRunner*>(argument);
            float* room = self.room_[size_t(thread)].data();
            thread ? self.help(room) : self.work(room);
        }, this);
    }
    return has_wrong_index_ ? "an index lies outside its tensor" : nullptr;
}

// The first thread goes through the list. Of large operations the others take parts while there are any: one that has lost
// its processor to another program is waited for only where it holds a part.
void RecordedRunner::work(float* room) {
    for (int64_t i = 0; i < count_; i++) {
        const EdgeOperation& o = operations_[i];
        const int all = parts(o);
        if (all == 1) {
            run_part(o, 0, 1, room);
            continue;
        }
        done_.store(0, std::memory_order_relaxed);
        ticket_.store(uint64_t(i) << 32, std::memory_order_release);
        while (take_part(room)) {
        }
        for (int looks = 0; done_.load(std::memory_order_acquire) < all; looks++) wait_a_little(looks);
    }
    ticket_.store(uint64_t(count_) << 32, std::memory_order_release);
}

void RecordedRunner::help(float* room) {
    for (int looks = 0; ticket_.load(std::memory_order_acquire) >> 32 != uint64_t(count_); looks++) {
        if (take_part(room))
            looks = 0;
        else
            wait_a_little(looks);
    }
}

// Whether there was a part to take.
bool RecordedRunner::take_part(float* room) {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    const uint64_t index = ticket >> 32;
    if (index >= uint64_t(count_)) return false;
    const EdgeOperation& o = operations_[index];
    const int part = int(ticket & 0xffffffffu), all = parts(o);
    if (part >= all) return false;
    if (!ticket_.compare_exchange_strong(ticket, ticket + 1, std::memory_order_acq_rel)) return true;
    run_part(o, part, all, room);
    done_.fetch_add(1, std::memory_order_release);
    return true;
}

void RecordedRunner::run_part(const EdgeOperation& o, int part, int parts, float* room) {
    if (is_product(o))
        product(o, part, parts, room);
    else if (is_over_rows(o))
        rows(o, part, parts, room);
    else
        map(o, part, parts);
}

void RecordedRunner::map(const EdgeOperation& o, int part, int parts) {
    EdgeOperand out = o.out;
    EdgeOperand inputs[3] = {o.a, o.b, o.c};
    if (o.code == OP_TAKE || o.code == OP_PUT) {
        if (o.index[0] < 0 || o.index[0] >= o.index_size) {
            has_wrong_index_ = true;
            return;
        }
        EdgeOperand& changed = o.code == OP_TAKE ? inputs[0] : out;
        changed.data = moved(changed, o.index[0] * o.index_stride);
    }
    const int64_t outer = o.size[0] * o.size[1] * o.size[2], inner = o.size[3];
    const bool by_rows = outer >= parts;
    const Share all_rows(outer, 1, by_rows ? part : 0, by_rows ? parts : 1);
    const Share columns(inner, 64, by_rows ? 0 : part, by_rows ? 1 : parts);
    const bool by_vectors = maps_vectors(o);
    for (int64_t row = all_rows.first; row < all_rows.last; row++) {
        char* to = moved(out, offset(out.stride, o.size, row) + columns.first * out.stride[3]);
        const char* from[3];
        for (int i = 0; i < 3; i++)
            from[i] = inputs[i].dtype == DT_NONE
                          ? nullptr
                          : moved(inputs[i], offset(inputs[i].stride, o.size, row) + columns.first * inputs[i].stride[3]);
        if (by_vectors) {
            MapInput vectors[3];
            for (int i = 0; i < 3; i++) {
                if (!from[i])
                    vectors[i].value = float(o.constant);
                else if (!inputs[i].stride[3])
                    vectors[i].value = float(get(from[i], inputs[i].dtype));
                else
                    vectors[i].data = from[i], vectors[i].dtype = inputs[i].dtype;
            }
            kernels_.recorded.map(o.code, columns.last - columns.first, float(o.number), vectors, to, out.dtype);
            continue;
        }
        int64_t step[3];
        for (int i = 0; i < 3; i++) step[i] = from[i] ? inputs[i].stride[3] * bytes_of(inputs[i].dtype) : 0;
        const int64_t out_step = out.stride[3] * bytes_of(out.dtype);
        for (int64_t column = columns.first; column < columns.last; column++, to += out_step) {
            double values[3];
            for (int i = 0; i < 3; i++) {
                values[i] = from[i] ? get(from[i], inputs[i].dtype) : o.constant;
                from[i] += step[i];
            }
            put(to, out.dtype, computed(o.code, values[0], values[1], values[2], o.number));
        }
    }
}

void RecordedRunner::product(const EdgeOperation& o, int part, int parts, float* room) {
    const int64_t batches = o.size[0], m = o.size[1], n = o.size[2], k = o.size[3];
    const bool by_dots = has_rows_of_b(o);
    const int64_t block = by_dots ? kDotRows : kMeanColumns, blocks = (n + block - 1) / block;
    const Share share(batches * blocks, 1, part, parts);
    float *x = room, *y = room + m * k;
    for (int64_t unit = share.first; unit < share.last;) {
        const int64_t batch = unit / blocks, begin = unit % blocks;
        const int64_t end = smaller(blocks, begin + share.last - unit);
        unit += end - begin;
        const float* left = x;
        int64_t left_stride = k;
        if (o.a.dtype == DT_F32 && o.a.stride[2] == 1) {
            left = reinterpret_cast<const float*>(moved(o.a, batch * o.a.stride[0])), left_stride = o.a.stride[1];
        } else {
            for (int64_t row = 0; row < m; row++) {
                MapInput inputs[3];
                inputs[0].data = moved(o.a, batch * o.a.stride[0] + row * o.a.stride[1]), inputs[0].dtype = o.a.dtype;
                kernels_.recorded.map(OP_COPY, k, 0, inputs, x + row * k, DT_F32);
            }
        }
        for (int64_t b = begin; b < end; b++) {
            const int64_t first = b * block, count = smaller(block, n - first);
            const char* right = moved(o.b, batch * o.b.stride[0] + first * o.b.stride[1]);
            if (by_dots)
                kernels_.recorded.dots(o.b.dtype, right, o.b.stride[1], count, k, left, m, left_stride, y, block);
            else
                kernels_.recorded.weighted(o.b.dtype, right, o.b.stride[2], k, count, left, m, left_stride, y, block);
            for (int64_t row = 0; row < m; row++) {
                char* to = moved(o.out, batch * o.out.stride[0] + row * o.out.stride[1] + first);
                MapInput inputs[3];
                const bool is_sum = o.c.dtype != DT_NONE;
                if (is_sum && o.c.stride[2]) {
                    inputs[0].data = moved(o.c, batch * o.c.stride[0] + row * o.c.stride[1] + first), inputs[0].dtype = o.c.dtype;
                } else if (is_sum) {
                    inputs[0].value = float(get(moved(o.c, batch * o.c.stride[0] + row * o.c.stride[1]), o.c.dtype));
                }
                inputs[1].data = y + row * block;
                kernels_.recorded.map(OP_ADD, count, float(o.number), inputs, to, o.out.dtype);
            }
        }
    }
}

void RecordedRunner::rows(const EdgeOperation& o, int part, int parts, float* room) {
    const int64_t n = o.size[3];
    const Share share(o.size[0] * o.size[1] * o.size[2], 1, part, parts);
    for (int64_t row = share.first; row < share.last; row++) {
        MapInput inputs[3];
        inputs[0].data = moved(o.a, offset(o.a.stride, o.size, row)), inputs[0].dtype = o.a.dtype;
        const float* x = static_cast<const float*>(inputs[0].data);
        if (o.a.dtype != DT_F32 || o.code == OP_SOFTMAX) {
            kernels_.recorded.map(OP_COPY, n, 0, inputs, room, DT_F32);
            x = room;
        }
        char* to = moved(o.out, offset(o.out.stride, o.size, row));
        if (o.code == OP_SOFTMAX) {
            const int64_t padded = round_up(n, 16);
            for (int64_t i = n; i < padded; i++) room[i] = -INFINITY;
            inputs[0].data = room, inputs[0].dtype = DT_F32;
            inputs[1].value = 1 / kernels_.softmax(room, int(padded));
            kernels_.recorded.map(OP_MUL, n, 0, inputs, to, o.out.dtype);
        } else if (o.code == OP_LENGTH) {
            float square;
            kernels_.recorded.dots(DT_F32, x, n, 1, n, x, 1, n, &square, 1);
            put(to, o.out.dtype, std::sqrt(square));
        } else {
            int64_t place = -1;
            float most = -INFINITY;
            if (kernels_.finite(x, int(n))) {
                most = kernels_.largest(x, int(n));
                for (place = 0; x[place] != most;) place++;
            } else {
                for (int64_t i = 0; i < n && most == most; i++)
                    if (place < 0 || !(x[i] <= most)) place = i, most = x[i];
            }
            put(to, o.out.dtype, most);
            if (o.c.dtype != DT_NONE) put(moved(o.c, offset(o.c.stride, o.size, row)), o.c.dtype, double(place));
        }
    }
}

}  // namespace smidgen
