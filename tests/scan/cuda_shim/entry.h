// What a test calls: the grid of the one kernel above.
static const Arguments* arguments;
static void start() {
  scan(*arguments);
  now->done = true;
}
extern "C" int run(const Arguments* x, int count, int threads, int shared_bytes, unsigned seed) {
  arguments = x;
  return run_grid<Arguments>(count, threads, shared_bytes, seed);
}
