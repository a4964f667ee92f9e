// One call of the engine in a process of its own, for a processor that is emulated: the caller's tensors and structure of
// arguments come as a file, mapped where their addresses say; what the engine writes is there afterwards.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include SOURCE

#define JOINED(name, suffix) name##suffix
#define FUNCTION(name, suffix) JOINED(name, suffix)

// file base bytes arguments weights backward threads: `weights` is where in the structure its pointer is.
int main(int, char** words) {
  auto number = [&](int i) { return strtoull(words[i], nullptr, 10); };
  int file = open(words[1], O_RDWR);
  void* base = reinterpret_cast<void*>(number(2));
  if (mmap(base, number(3), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) != base) return 3;
  char* arguments = static_cast<char*>(base) + number(4);
  auto size = reinterpret_cast<int64_t (*)(const void*)>(&FUNCTION(CELL_NAME, _weights));
  auto scan = reinterpret_cast<int (*)(const void*, int, int, int, const OpenMP*)>(&FUNCTION(CELL_NAME, _scan));
  void* weights = aligned_alloc(64, (size(arguments) * 4 + 127) / 64 * 64);
  memcpy(arguments + number(5), &weights, sizeof weights);
  OpenMP none{nullptr, nullptr, nullptr};
  return scan(arguments, static_cast<int>(number(6)), static_cast<int>(number(7)), 0, &none);
}
