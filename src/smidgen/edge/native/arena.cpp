// Memory of the weights, and pages of files that are no longer needed.
#include <map>
#include <mutex>
#include <new>

#include "repack.h"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace smidgen {
namespace {

constexpr size_t kLargePage = size_t(2) << 20;

std::mutex mappings_mutex;
std::map<uintptr_t, size_t> mappings;

}  // namespace

void note_mapping(const void* data, size_t bytes) {
    std::lock_guard<std::mutex> lock(mappings_mutex);
    mappings[reinterpret_cast<uintptr_t>(data)] = bytes;
}

void forget_mapping(const void* data) {
    std::lock_guard<std::mutex> lock(mappings_mutex);
    mappings.erase(reinterpret_cast<uintptr_t>(data));
}

// Only pages that lie wholly inside, and only of a file: memory that the caller owns would be lost.
void release_pages(const void* data, size_t bytes) {
#if (defined(__unix__) || defined(__APPLE__)) && defined(MADV_DONTNEED)
    const uintptr_t start = reinterpret_cast<uintptr_t>(data);
    const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE)), first = (start + page - 1) / page * page;
    const uintptr_t last = (start + bytes) / page * page;
    std::lock_guard<std::mutex> lock(mappings_mutex);
    auto behind = mappings.upper_bound(start);
    if (behind == mappings.begin()) return;
    const auto& found = *--behind;
    if (start + bytes <= found.first + found.second && first < last)
        madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
#else
    (void)data, (void)bytes;
#endif
}

Arena::Arena(size_t bytes) : bytes_(size_t(round_up(int64_t(bytes), int64_t(kLargePage)))) {
#if defined(__unix__) || defined(__APPLE__)
    void* region = mmap(nullptr, bytes_ + kLargePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<char*>(region);
    used_ = size_t(round_up(int64_t(reinterpret_cast<uintptr_t>(data_)), int64_t(kLargePage)) - int64_t(reinterpret_cast<uintptr_t>(data_)));
    bytes_ += kLargePage;
#if defined(MADV_HUGEPAGE)
    madvise(data_, bytes_, MADV_HUGEPAGE);
#endif
#else
    data_ = new char[bytes_ + 64]();
    used_ = 64 - reinterpret_cast<uintptr_t>(data_) % 64;
    bytes_ += 64;
#endif
}

Arena::~Arena() {
#if defined(__unix__) || defined(__APPLE__)
    if (data_) munmap(data_, bytes_);
#else
    delete[] data_;
#endif
}

void* Arena::take(size_t bytes) {
    bytes = size_t(round_up(int64_t(bytes), 64));
    if (used_ + bytes > bytes_) throw std::bad_alloc();
    void* result = data_ + used_;
    used_ += bytes;
    return result;
}

}  // namespace smidgen
