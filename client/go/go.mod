module fresco/client/go

go 1.19
