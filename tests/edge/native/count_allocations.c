/* Preloaded: counts what a process takes from the heap. glibc. */
#include <stddef.h>

extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);

static long count;

long allocations(void) { return __atomic_load_n(&count, __ATOMIC_SEQ_CST); }

static void note(void) { __atomic_fetch_add(&count, 1, __ATOMIC_SEQ_CST); }

void* malloc(size_t size) { return note(), __libc_malloc(size); }
void* calloc(size_t n, size_t size) { return note(), __libc_calloc(n, size); }
void* realloc(void* old, size_t size) { return note(), __libc_realloc(old, size); }
void* memalign(size_t to, size_t size) { return note(), __libc_memalign(to, size); }
void* aligned_alloc(size_t to, size_t size) { return note(), __libc_memalign(to, size); }
int posix_memalign(void** out, size_t to, size_t size) { return note(), (*out = __libc_memalign(to, size)) ? 0 : 12; }
