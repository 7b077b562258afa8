// A thread of every worker: ends the process when its parent is gone, even while a native run blocks the main thread.
import { workerData } from 'node:worker_threads'

const parent = workerData as number
setInterval(() => {
  // An orphan is adopted by init or a subreaper.
  if (process.ppid !== parent) process.kill(process.pid, 'SIGKILL')
}, 500)
