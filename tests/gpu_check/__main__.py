from tests.gpu_check.check import main

if __name__ == "__main__":
    main()
