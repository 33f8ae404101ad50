// Graphs of the CPU, for what is recorded, and what a replay reads and writes.
#pragma once

#include <functional>
#include <memory>
#include <stdexcept>
#include <utility>

#include "pipeline/engine/device_graph.h"

namespace fresco {

// Makers of graphs that do their work again, and what was asked of them; it outlives them.
struct FakeGraphs {
  int captures = 0, replays = 0;
  bool fails = false;                           // to record, from now on
  std::function<void()> on_capture, on_replay;  // called before the work; may be empty

  std::unique_ptr<GraphMaker> Maker() { return std::make_unique<FakeMaker>(this); }

 private:
  class FakeGraph final : public DeviceGraph {
   public:
    FakeGraph(std::function<void()> work, FakeGraphs* graphs) : work_(std::move(work)), graphs_(*graphs) {}
    void Replay() override {
      ++graphs_.replays;
      if (graphs_.on_replay) graphs_.on_replay();
      work_();
    }

   private:
    const std::function<void()> work_;
    FakeGraphs& graphs_;
  };

  class FakeMaker final : public GraphMaker {
   public:
    explicit FakeMaker(FakeGraphs* graphs) : graphs_(*graphs) {}
    std::unique_ptr<DeviceGraph> Capture(const std::function<void()>& work) override {
      ++graphs_.captures;
      if (graphs_.on_capture) graphs_.on_capture();
      if (graphs_.fails) throw std::runtime_error("operation not permitted when stream is capturing");
      work();
      return std::make_unique<FakeGraph>(work, &graphs_);
    }

   private:
    FakeGraphs& graphs_;
  };
};

// As a GPU's: twice its work, once of which is only recorded, and replays in which no layer is asked.
class HollowMaker final : public GraphMaker {
 public:
  std::unique_ptr<DeviceGraph> Capture(const std::function<void()>& work) override {
    work();
    work();
    return std::make_unique<Hollow>();
  }

 private:
  struct Hollow final : DeviceGraph {
    void Replay() override {}
  };
};

}  // namespace fresco
